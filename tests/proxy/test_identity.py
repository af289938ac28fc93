"""Who the client is, and who it can never pretend to be."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from proxy import identity as module
from proxy.http.messages import Head, Peer
from proxy.identity import Identifier, certificate_subject, parse_address
from proxy.settings.models import Client
from proxy.settings.problems import SettingsError

SECRET = "0123456789abcdef"


def who(identifier, address="192.0.2.1", certificate=None, **headers):
    """The identity of a request with these headers (underscores for hyphens)."""
    names = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    head = Head("POST", "/", names, keep_alive=True)
    return identifier(head, Peer(address, certificate is not None, certificate))


def make(**settings):
    return Identifier(Client(**{"secret": SECRET, **settings}))


@pytest.fixture
def keys(tmp_path):
    """A file of two API keys: alice's ``key-a`` and bob's ``key-b``."""
    path = tmp_path / "keys"
    path.write_text(
        "".join(
            f"{name}:{hashlib.sha256(key).hexdigest()}\n"
            for name, key in (("alice", b"key-a"), ("bob", b"key-b"))
        )
    )
    return path


KEY = ec.generate_private_key(ec.SECP256R1())


def certify(*names, subject=(("2.5.4.3", "client"),)):
    """A self-signed certificate in DER with these subject alternative names."""
    name = x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in subject]
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def uri(text):
    return x509.UniformResourceIdentifier(text)


SPIFFE = certify(uri("spiffe://example.org/ns/a/sa/b"))


def test_an_address_is_a_pseudonym():
    identity = who(make())
    assert identity.kind == "ip"
    assert len(identity.client) == len(identity.subnet) == 32
    assert "192.0.2" not in repr(identity)
    assert identity == who(make())
    assert identity.client != who(make(), "192.0.2.2").client
    assert identity.subnet == who(make(), "192.0.2.200").subnet
    assert identity.subnet != who(make(), "192.0.3.1").subnet


def test_pseudonyms_hang_on_the_secret():
    assert who(make()).client != who(make(secret="f" * 16)).client
    one, two = Identifier(Client()), Identifier(Client())
    assert who(one).client == who(one).client
    assert who(one).client != who(two).client
    fixed = Identifier(Client(), random=bytes)
    assert who(fixed) == who(Identifier(Client(), random=bytes))


def test_ipv6_is_one_client_a_64_and_one_subnet_a_48():
    identify = make()
    one, same = who(identify, "2001:db8:1:2::1"), who(identify, "2001:db8:1:2:ffff::9")
    near, far = who(identify, "2001:db8:1:3::1"), who(identify, "2001:db8:2:2::1")
    assert one == same
    assert one.client != near.client
    assert one.subnet == near.subnet != far.subnet


def test_prefixes_are_configurable():
    identify = make(ipv4_prefix=24, ipv4_subnet=16, ipv6_prefix=128)
    assert who(identify, "192.0.2.1").client == who(identify, "192.0.2.9").client
    assert who(identify, "192.0.2.1").subnet == who(identify, "192.0.9.9").subnet
    assert who(identify, "2001:db8::1").client != who(identify, "2001:db8::2").client


def test_a_mapped_address_is_the_ipv4_address():
    identify = make()
    assert who(identify, "::ffff:192.0.2.1") == who(identify, "192.0.2.1")
    assert who(identify, "::ffff:c000:201") == who(identify, "192.0.2.1")


def test_a_zone_id_names_nobody():
    assert parse_address("fe80::1%eth0") is None
    identity = who(make(), "fe80::1%eth0")
    assert (identity.kind, identity.subnet) == ("anonymous", "")


def test_a_unix_socket_is_one_local_client():
    identity = who(make(), "")
    assert (identity.kind, identity.subnet) == ("local", "")
    assert identity == who(make(), "", x_forwarded_for=b"192.0.2.1")


def test_without_ip_all_strangers_are_one():
    identify = make(identify=["api_key"])
    one, two = who(identify, "192.0.2.1"), who(identify, "198.51.100.1")
    assert one.kind == "anonymous"
    assert one.client == two.client
    assert one.subnet != two.subnet


def test_a_listed_key_is_its_name_wherever_it_comes_from(keys):
    identify = make(api_keys=keys)
    alice = who(identify, x_api_key=b"key-a")
    assert (alice.kind, alice.label) == ("api_key", "api_key:alice")
    assert alice.client == who(identify, "198.51.100.1", x_api_key=b"key-a").client
    assert alice.subnet == who(identify).subnet
    assert alice.client != who(identify, x_api_key=b"key-b").client
    assert "key-a" not in repr(alice)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"key-c",
        b"KEY-A",
        b"key-a ",
        b" key-a",
        b"key-a, key-b",
        b"alice",
        b"key-a\0",
        b"x" * 9000,
        hashlib.sha256(b"key-a").digest(),
        hashlib.sha256(b"key-a").hexdigest().encode(),
    ],
)
def test_an_unlisted_key_identifies_nobody(keys, value):
    identify = make(api_keys=keys)
    assert who(identify, x_api_key=value) == who(identify)


def test_a_key_counts_only_where_it_is_configured(keys):
    assert who(make(), x_api_key=b"key-a") == who(make())
    assert who(make(identify=["mtls", "ip"]), x_api_key=b"key-a") == who(make())
    identify = make(api_keys=keys, api_key_header="x-other")
    assert who(identify, x_api_key=b"key-a").kind == "ip"
    assert who(identify, x_other=b"key-a").kind == "api_key"


def test_bearer_tokens(keys):
    identify = make(api_keys=keys, api_key_header="Authorization")
    for value in (b"Bearer key-a", b"bearer key-a", b"BEARER  key-a "):
        assert who(identify, authorization=value).label == "api_key:alice"
    for value in (b"key-a", b"Basic key-a", b"Bearerkey-a", b"Bearer", b"Bearer key-a key-b"):
        assert who(identify, authorization=value).kind == "ip"


def test_a_faulty_file_of_keys_is_told_at_once(tmp_path):
    with pytest.raises(SettingsError):
        make(api_keys=tmp_path / "none")


def test_a_certificate_is_its_spiffe_id(keys):
    identify = make(api_keys=keys)
    identity = who(identify, certificate=SPIFFE, x_api_key=b"key-a")
    assert (identity.kind, identity.label) == ("mtls", "mtls:spiffe://example.org/ns/a/sa/b")
    assert identity.client == identify.pseudonym("mtls:spiffe://example.org/ns/a/sa/b")
    assert identity.subnet == who(identify).subnet


def test_the_order_is_the_configured_one(keys):
    identify = make(api_keys=keys, identify=["api_key", "mtls"])
    assert who(identify, certificate=SPIFFE, x_api_key=b"key-a").kind == "api_key"
    assert who(identify, certificate=SPIFFE).kind == "mtls"
    assert who(make(identify=["ip"]), certificate=SPIFFE).kind == "ip"


CERTIFICATES = {
    "no names": (certify(), "CN=client"),
    "only a host": (certify(x509.DNSName("a.example")), "CN=client"),
    "a host beside": (certify(x509.DNSName("a"), uri("spiffe://td/a")), "spiffe://td/a"),
    "two ids": (certify(uri("spiffe://td/a"), uri("spiffe://td/b")), ""),
    "id and URL": (certify(uri("spiffe://td/a"), uri("https://td/b")), ""),
    "a URL": (certify(uri("https://td/a")), ""),
    "no path": (certify(uri("spiffe://td")), ""),
    "query": (certify(uri("spiffe://td/a?b")), ""),
    "port": (certify(uri("spiffe://td:1/a")), ""),
    "user": (certify(uri("spiffe://u@td/a")), ""),
    "capitals": (certify(uri("spiffe://TD/a")), ""),
    "empty segment": (certify(uri("spiffe://td//a")), ""),
    "too long": (certify(uri("spiffe://td/" + "a" * 2048)), ""),
    "no subject": (certify(subject=()), ""),
    "truncated": (SPIFFE[:-10], ""),
    "nothing": (b"", ""),
    "garbage": (b"\x30\x82" * 50, ""),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_what_certificates_stand_for(name):
    der, subject = CERTIFICATES[name]
    assert certificate_subject(der) == subject
    identity = who(make(), certificate=der)
    assert identity.kind == ("mtls" if subject else "ip")


PROXIED = {
    # header: the address that counts; None is the proxy's own
    b"198.51.100.7": "198.51.100.7",
    b" 198.51.100.7\t": "198.51.100.7",
    b"203.0.113.1, 198.51.100.7": "198.51.100.7",
    b"198.51.100.7, 10.0.0.2, 10.0.0.3": "198.51.100.7",
    b"10.9.9.9, 198.51.100.7,10.0.0.2": "198.51.100.7",
    b"10.0.0.9, 10.0.0.2": "10.0.0.9",
    b"garbage, 198.51.100.7": "198.51.100.7",
    b"2001:db8::7": "2001:db8::7",
    b"::ffff:198.51.100.7": "198.51.100.7",
    b"198.51.100.7, ::ffff:10.0.0.2": "198.51.100.7",
    b"": None,
    b",": None,
    b"198.51.100.7,": None,
    b"198.51.100.7, unknown": None,
    b"198.51.100.7, unknown, 10.0.0.2": None,
    b"198.51.100.7:443": None,
    b"[2001:db8::7]:443": None,
    b"fe80::1%eth0": None,
    b"198.51.100.07": None,
    b"0xc6336407": None,
    b"3325256711": None,
    b"198.51.100.7 10.0.0.2": None,
    b"198.51.100.7;10.0.0.2": None,
    b'for="198.51.100.7"': None,
    b"\xff\xfe": None,
    "١٩٨.51.100.7".encode(): None,
    b", ".join([b"10.0.0.2"] * 100): None,
}


@pytest.mark.parametrize("header", PROXIED, ids=repr)
def test_a_trusted_proxy_is_believed_as_far_as_it_wrote(header):
    identify = make(trusted_proxies=["10.0.0.0/8"])
    expected = who(identify, PROXIED[header] or "10.0.0.1")
    for _ in range(2):  # also from memory
        assert who(identify, "10.0.0.1", x_forwarded_for=header) == expected


def test_nobody_else_is_believed():
    header = {"x_forwarded_for": b"198.51.100.7"}
    assert who(make(), "10.0.0.1", **header) == who(make(), "10.0.0.1")
    identify = make(trusted_proxies=["10.0.0.0/8"])
    assert who(identify, "192.0.2.1", **header) == who(identify, "192.0.2.1")
    for name in ("x_real_ip", "forwarded", "x_client_ip", "true_client_ip", "cf_connecting_ip"):
        assert who(identify, "10.0.0.1", **{name: b"198.51.100.7"}) == who(identify, "10.0.0.1")


def test_two_headers_that_may_contradict_are_both_ignored():
    identify = make(trusted_proxies=["10.0.0.0/8"])
    both = who(identify, "10.0.0.1", x_forwarded_for=b"198.51.100.7", forwarded=b"for=198.51.100.8")
    assert both == who(identify, "10.0.0.1")


def test_a_key_behind_a_proxy_is_charged_to_the_clients_subnet(keys):
    identify = make(trusted_proxies=["10.0.0.0/8"], api_keys=keys)
    identity = who(identify, "10.0.0.1", x_forwarded_for=b"198.51.100.7", x_api_key=b"key-a")
    assert identity.kind == "api_key"
    assert identity.subnet == who(identify, "198.51.100.200").subnet


def test_configured_names_lead_to_the_same_pseudonyms(keys):
    identify = make(api_keys=keys)
    assert identify.pseudonym("ip:192.0.2.1") == who(identify).client
    assert identify.pseudonym("ip:2001:db8::5") == who(identify, "2001:db8::9").client
    assert identify.pseudonym("api_key:alice") == who(identify, x_api_key=b"key-a").client
    assert identify.pseudonym("0a" * 16) == "0a" * 16


def test_what_is_remembered_is_bounded(keys):
    identify = make(trusted_proxies=["10.0.0.0/8"], api_keys=keys)
    for number in range(3 * module._REMEMBERED):
        address = f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        header = f"junk{number}, {address}".encode()
        who(identify, "10.0.0.1", x_forwarded_for=header, x_api_key=b"key-a")
    for number in range(2 * module._CERTIFICATES):
        who(identify, certificate=b"not a certificate %d" % number)
    memories = (identify._places, identify._forwarded, identify._subjects, identify._named)
    assert all(0 < len(memory) <= module._REMEMBERED for memory in memories)
    assert len(identify._subjects) <= module._CERTIFICATES
    long = b"x" * 10_000 + b", 11.1.1.1"
    assert who(identify, "10.0.0.1", x_forwarded_for=long) == who(identify, "11.1.1.1")
    assert long not in identify._forwarded


IDENTIFY = make(trusted_proxies=["10.0.0.0/8", "fd00::/8"])


@given(st.binary(max_size=100), st.sampled_from(["10.0.0.1", "fd00::1", "192.0.2.1", "", "junk"]))
def test_any_header_gives_some_identity(header, address):
    identity = who(IDENTIFY, address, x_forwarded_for=header, x_api_key=header)
    assert identity.kind in {"ip", "local", "anonymous"}
    assert len(identity.client) == 32


@given(
    st.lists(st.ip_addresses(v=4).map(str), max_size=5),
    st.ip_addresses(v=4).filter(lambda address: str(address).split(".")[0] != "10"),
)
def test_a_client_cannot_change_who_it_is_by_what_it_claims(claims, address):
    header = ", ".join([*claims, str(address), "10.0.0.7"]).encode()
    seen = who(IDENTIFY, "10.0.0.1", x_forwarded_for=header)
    assert seen == who(IDENTIFY, str(address))
