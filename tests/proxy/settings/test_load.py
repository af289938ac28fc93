"""A file to settings, and every fault to its line and column."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decision import FailureMode, Mode
from proxy.settings import load as module
from proxy.settings.load import digest, load
from proxy.settings.models import Settings
from proxy.settings.problems import Problem, SettingsError
from proxy.settings.schema import keys_at

ENDPOINT = """\
endpoints:
  - name: digits
    match: /v2/models/digits
    upstream: http://127.0.0.1:8081
"""


@pytest.fixture
def read(tmp_path):
    """Loads a text: ``read(text, NAME="value")``."""

    def read(text, checks=(), **environment):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, environment=environment, checks=checks)

    return read


@pytest.fixture
def faults(read):
    """What is wrong with a text: ``[(line, column, message)]``."""

    def faults(text, **environment):
        with pytest.raises(SettingsError) as caught:
            read(text, **environment)
        return [(one.line, one.column, one.message) for one in caught.value.problems]

    return faults


def test_the_smallest_configuration_has_safe_defaults(read):
    settings = read(ENDPOINT)
    endpoint = settings.endpoints[0]
    assert endpoint.mode is Mode.ENFORCE
    assert endpoint.failure_mode is FailureMode.DENY
    assert settings.listen.is_local
    assert settings.admin.listen.is_local
    assert settings.client.trusted_proxies == ()


def test_monitoring_fails_open_unless_told_otherwise(read):
    assert read(ENDPOINT + "    mode: monitor\n").endpoints[0].failure_mode is FailureMode.ALLOW
    text = ENDPOINT + "    mode: monitor\n    failure_mode: deny\n"
    assert read(text).endpoints[0].failure_mode is FailureMode.DENY


def test_everything_wrong_is_reported_at_once_with_its_place(faults):
    text = """\
listen: 127.0.0.1:80800
admin: {listen: 127.0.0.1:9090, tokn: x}
workers: 0
state: redis:host
client:
  trusted_proxies: [10.0.0.1/8, 0.0.0.0/0]
endpoints:
  - name: digits
    match: /v2/models/digits
    match: /v2/models/digits
    upstream: [http://127.0.0.1:8081/x, ftp://y]
    mode: foo
    limits: {rows_per_second: "${NOPE}", burst_row: 5, rows_per_request: "256"}
  - name: Two
    match: /v2/models/b/
"""
    found = faults(text)
    assert [(line, column) for line, column, _ in found] == [
        (1, 9),
        (2, 33),
        (3, 10),
        (4, 8),
        (6, 21),
        (6, 33),
        (10, 5),
        (11, 16),
        (11, 41),
        (12, 11),
        (13, 31),
        (13, 42),
        (13, 74),
        (14, 5),
        (14, 11),
        (15, 12),
    ]
    messages = [message for _, _, message in found]
    assert messages[1] == "unknown key admin.tokn; did you mean 'token'?"
    assert "greater than or equal to 1" in messages[2]
    assert "memory://" in messages[3]
    assert messages[6] == "endpoints[0].match is given twice; first in line 9"
    assert messages[9] == "endpoints[0].mode: must be 'enforce' or 'monitor'"
    assert "NOPE is not set" in messages[10]
    assert messages[11].endswith("did you mean 'burst_rows'?")
    assert messages[12] == "endpoints[0].limits.rows_per_request: must be a valid integer"
    assert messages[13] == "endpoints[1]: the key 'upstream' is missing"


def test_a_problem_reads_as_a_compiler_writes_it(read, tmp_path):
    with pytest.raises(SettingsError) as caught:
        read(ENDPOINT + "    mode: off\n")
    assert str(caught.value) == (
        f"{tmp_path}/config.yaml:5:11: error: endpoints[0].mode: must be 'enforce' or 'monitor'\n"
        "        mode: off\n"
        "              ^"
    )


UNREADABLE = {
    "empty": (b"", (1, 1), "empty"),
    "comments": (b"# nothing\n", (1, 1), "empty"),
    "null": (b"~\n", (1, 1), "must be"),
    "list": (b"- a\n", (1, 1), "must be"),
    "scalar": (b"hello\n", (1, 1), "must be"),
    "latin-1": (b"listen: a\nlog: \xe9\n", (2, 6), "not UTF-8"),
    "utf-16": (ENDPOINT.encode("utf-16"), (1, 1), "not UTF-8"),
    "nul": (b"listen: a\nlog: \0\n", (2, 6), "U+0000"),
    "escape": (b"listen: \x1b[2J\n", (1, 9), "U+001B"),
    "tab": (b"admin:\n\tlisten: a\n", (2, 1), "use spaces"),
    "unclosed": (b"admin: {listen: a\n", (2, 1), "not valid YAML"),
    "variable in braces": (b"admin: {token: ${T}}\n", (1, 17), "needs quotes"),
    "two documents": (ENDPOINT.encode() + b"---\nlisten: a\n", (5, 1), "second document"),
    "tag": (b"listen: !!python/object:os.system x\n", (1, 9), "tag"),
    "alias of nothing": (b"listen: *a\n", (1, 9), "undefined alias"),
    "alias of itself": (b"listen: &a [*a]\n", (1, 9), "nested more than"),
    "merge of itself": (b"admin: &a {<<: *a}\n", (1, 1), "merges itself"),
    "merge of a scalar": (b"admin: {<<: x}\n", (1, 13), "<< needs a mapping"),
    "key that is a list": (b"[a]: b\n", (1, 1), "plain word"),
    "deep": (b"listen: " + b"[" * 5000 + b"]" * 5000, (1, 1), "nested"),
    "infinite": (b"http: {head_seconds: .inf}\n", (1, 22), "finite"),
    "huge number": (b"http: {head_seconds: 1e999}\n", (1, 22), "too large"),
    "huge integer": (b"http: {head_bytes: " + b"9" * 5000 + b"}\n", (1, 20), "too large"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_where_and_why(faults, name):
    text, place, words = UNREADABLE[name]
    found = faults(text)
    assert any((line, column) == place and words in message for line, column, message in found), (
        found
    )


def test_a_billion_laughs_end_at_a_bound(faults):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert any(
        "values once its aliases are expanded" in message
        for *_, message in faults("\n".join(lines))
    )


def test_a_file_that_is_too_large_or_missing_or_a_directory(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (module.MAX_BYTES + 1))
    for path, words in (
        (large, "larger than"),
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(SettingsError, match=words):
            load(path)


def test_a_file_of_the_largest_size_is_read(read):
    text = ENDPOINT + "#" * (module.MAX_BYTES - len(ENDPOINT))
    assert read(text).endpoints[0].name == "digits"


def test_a_byte_order_mark_is_no_fault(read):
    assert read(b"\xef\xbb\xbf" + ENDPOINT.encode()).endpoints[0].name == "digits"


def test_variables_take_the_type_that_is_wanted(read):
    settings = read(
        ENDPOINT + "    limits: {rows_per_second: '${RATE}', rows_per_request: '${N:-7}'}\n"
        "admin: {token: '${TOKEN}'}\nclient:\n  secret: ${SECRET}\nlisten: ${HOST}:${PORT:-80}\n",
        RATE="2.5",
        TOKEN="1234567890123456",
        SECRET="0x00000000000000ff",
        HOST="127.0.0.1",
    )
    assert settings.endpoints[0].limits.rows_per_second == 2.5
    assert settings.endpoints[0].limits.rows_per_request == 7
    assert settings.admin.token.get_secret_value() == "1234567890123456"
    assert settings.client.secret.get_secret_value() == "0x00000000000000ff"
    assert str(settings.listen) == "127.0.0.1:80"


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_a_token_is_never_lost_silently(faults, value):
    assert faults(f"admin:\n  token: ${{TOKEN}}\n{ENDPOINT}", TOKEN=value)


def test_what_is_quoted_is_a_word(faults):
    (found,) = faults(ENDPOINT + '    connections: "5"\n')
    assert found == (5, 18, "endpoints[0].connections: must be a valid integer")


def test_an_empty_variable_is_as_good_as_none(faults, read):
    (found,) = faults(ENDPOINT + "    contract: ${EMPTY}\n", EMPTY="")
    assert found[:2] == (5, 15)
    assert "EMPTY is empty" in found[2]
    assert (
        read(ENDPOINT + "    mode: ${EMPTY:-monitor}\n", EMPTY="").endpoints[0].mode is Mode.MONITOR
    )


@pytest.mark.parametrize("text", ["${1x}", "${A", "${}", "${A:?no}"])
def test_a_malformed_variable_is_a_fault(faults, text):
    (found,) = faults(f'listen: "{text}"\n{ENDPOINT}', A="x")
    assert "is neither" in found[2]
    assert found[:2] == (1, 9)


def test_an_escaped_variable_is_plain_text(read):
    text = ENDPOINT.replace("http://127.0.0.1:8081", '"unix:/run/$${X}"')
    assert read(text).endpoints[0].upstream[0].address.path == "/run/${X}"


def test_a_variable_is_not_read_twice(read):
    text = ENDPOINT.replace("http://127.0.0.1:8081", "unix:/run/${A}")
    assert read(text, A="${B}", B="b").endpoints[0].upstream[0].address.path == "/run/${B}"


def test_anchors_and_merges(read):
    settings = read("""\
endpoints:
  - &base
    name: a
    match: /v2/models/a
    upstream: http://127.0.0.1:8081
    limits: &limits {rows_per_second: 5, burst_rows: 2000}
  - name: b
    <<: *base
    match: /v2/models/b
    limits: {<<: *limits, rows_per_second: 7}
""")
    first, second = settings.endpoints
    assert (first.match, second.match) == ("/v2/models/a", "/v2/models/b")
    assert (second.name, second.limits.rows_per_second, second.limits.burst_rows) == ("b", 7, 2000)
    assert first.limits.rows_per_second == 5


def test_a_fault_in_merged_keys_points_to_where_it_is_written(faults):
    found = faults("""\
endpoints:
  - &base
    name: a
    match: /v2/models/a
    upstream: http://127.0.0.1:8081
    mode: wrong
  - <<: *base
    name: b
    match: /v2/models/b
""")
    assert [(line, column) for line, column, _ in found] == [(6, 11), (6, 11)]


def test_the_words_of_yaml_1_2(faults):
    # YAML 1.1 would read a boolean, and a number in base 60.
    found = faults(f"log: {{level: no}}\nhttp: {{body_rate: 1:30}}\n{ENDPOINT}")
    assert [(line, column) for line, column, _ in found] == [(1, 14), (2, 19)]


def test_secrets_are_neither_shown_nor_digested(read):
    with pytest.raises(SettingsError) as caught:
        read(f"admin:\n  token: hunter2\n{ENDPOINT}")
    assert "hunter2" not in str(caught.value)
    assert "at least 16" in str(caught.value)
    one = read(f"admin:\n  token: {'a' * 16}\n{ENDPOINT}")
    two = read(f"admin:\n  token: {'b' * 16}\n{ENDPOINT}")
    assert "a" * 16 not in repr(one)
    assert digest(one) == digest(two)


WORD = "hunter2hunter2hunter2"
LEAKS = {
    "misspelt key": f"client:\n  secrt: {WORD}\n",
    "misspelt section": f"cleint:\n  secret: {WORD}\n",
    "in another section": f"http:\n  key: {WORD}\n",
    "at the root": f"key: {WORD}\n",
    "under an unknown key": f"http: {{a: {{b: [{WORD}]}}}}\n",
    "unknown key twice": f"http:\n  key: x\n  key: {WORD}\n",
    "section twice": f"client: {{}}\nclient: {{secret: {WORD}}}\n",
    "beside a fault": f"client: {{secret: '{WORD}', max_known: 0}}\n",
    "beside a fault of another section": f"{{client: {{secret: {WORD}}}, workers: 2}}\n",
    "over several lines": f"client: {{secret: '{WORD}\n  {WORD}', ipv4_prefix: 0}}\n",
    "no YAML": f"client:\n  secret: {WORD}: b\n",
    "no YAML, at another key": f"client:\n  secret: '{WORD}\nworkers: 1\n",
    "no YAML, a line below": f"client:\n  secret: {WORD}\n   max_known: 1\n",
    "no space, in braces": f"client: {{secret:{WORD}}}\n",
    "no space, in a block": f"client:\n  secret:{WORD}\n",
    "no space, in a list": f"client:\n  - secret:{WORD}\n",
    "no space, at the root": f"key:{WORD}\n",
    "no colon": f"client: {{secret {WORD}}}\n",
    "with a comma": f"client: {{secret: abcdefghijklmnopq,{WORD}}}\n",
    "as a set": f"admin: {{token, {WORD}}}\n",
    "as a mapping": f"admin: {{token: {{{WORD}: 1}}}}\n",
    "as a mapping without a value": f"admin: {{token: {{{WORD}}}}}\n",
    "as an alias": f"admin:\n  token: *{WORD}\n",
    "as a tag": f"admin:\n  token: !{WORD} x\n",
    "as a tag handle": f"admin:\n  token: !{WORD}! x\n",
    "as an anchor": f"admin:\n  token: &{WORD}\n  listen: &{WORD}\n",
    "with a control character": f"admin:\n  token: {WORD}\a\n",
    "in an unclosed variable": f"admin:\n  token: '${{KEY:-{WORD}'\n",
    "in a variable's name": f"admin:\n  token: '${{a {WORD}}}'\n",
    "merged": f"http: {{<<: {{secret: {WORD}}}, idle_seconds: x}}\n",
    "merged from a list": f"http: {{<<: [{{secret: {WORD}}}], idle_seconds: x}}\n",
    "an alias of it": f"http: {{a: &a {WORD}}}\nclient: {{secret: *a, max_known: 0}}\n",
}


@pytest.mark.parametrize("name", LEAKS)
def test_no_fault_shows_a_secret(read, name):
    for text in (LEAKS[name] + ENDPOINT, ENDPOINT + LEAKS[name], LEAKS[name]):
        with pytest.raises(SettingsError) as caught:
            read(text)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in caught.value.summary
        assert all(problem.line for problem in caught.value.problems)


def test_what_can_hold_no_secret_is_shown(read):
    text = f"client:\n  secret: {WORD}\nhttp:\n  idle_seconds: x\nfoo: {WORD}\nlog: {{level: y}}\n"
    with pytest.raises(SettingsError) as caught:
        read(
            text
            + ENDPOINT
            + "    rules: {BZ-300: {mode: z}}\n    contract: {inputs: [{name: 1}]}\n"
        )
    shown = {problem.line: problem.source for problem in caught.value.problems}
    assert shown.pop(5) == ""
    assert list(shown) == [4, 6, 11, 12]
    assert all(shown.values())


def test_a_summary_holds_places_and_messages_only(read, tmp_path):
    with pytest.raises(SettingsError) as caught:
        read(ENDPOINT + "    mode: off\n    match: /b\n")
    file = f"{tmp_path}/config.yaml"
    assert caught.value.summary.splitlines() == [
        f"{file}:5:11: endpoints[0].mode: must be 'enforce' or 'monitor'",
        f"{file}:6:5: endpoints[0].match is given twice; first in line 3",
    ]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "none.yaml")
    assert caught.value.summary == f"{tmp_path}/none.yaml: no such file or directory"


def test_a_variable_that_is_not_text_is_a_fault(faults):
    (found,) = faults(f"admin:\n  token: ${{TOKEN}}\n{ENDPOINT}", TOKEN="\udcff" * 20)
    assert found == (2, 10, "the environment variable TOKEN is not UTF-8 text")


def test_the_digest_is_of_the_effective_configuration(read):
    plain = read(ENDPOINT)
    assert digest(plain) == digest(read(ENDPOINT + "# a comment\nworkers: 1\n"))
    assert digest(plain) != digest(read(ENDPOINT + "    mode: monitor\n"))
    assert len(digest(plain)) == 64


def test_escape_sequences_do_not_reach_the_terminal(read):
    with pytest.raises(SettingsError) as caught:
        read("listen: \x1b]0;evil\x07\n")
    assert "\x1b" not in str(caught.value)
    assert "\x1b" not in str(Problem("c.yaml", 1, 1, "wrong", "listen: \x1b]0;evil\x07"))


def test_the_caret_stands_below_its_fault_in_long_lines(read):
    with pytest.raises(SettingsError) as caught:
        read(f"log: {{level: {'x' * 5000}, format: wrong}}\n{ENDPOINT}")
    _, second = caught.value.problems
    _, shown, caret = str(second).splitlines()
    assert len(shown) < 200
    assert shown[caret.index("^") :].startswith("wrong")


def test_paths_start_from_the_file(read, tmp_path):
    settings = read(ENDPOINT + "    bundle: a/digits.bundle\naudit: {path: /var/log/a.jsonl}\n")
    assert settings.endpoints[0].bundle == tmp_path / "a/digits.bundle"
    assert str(settings.audit.path) == "/var/log/a.jsonl"


def test_a_relative_configuration_path_gives_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(ENDPOINT + "    bundle: d.bundle\n")
    assert load("c.yaml").endpoints[0].bundle == tmp_path / "d.bundle"


def test_further_checks_have_places_too(read):
    def check(settings):
        yield ("endpoints", 0, "match"), "is not to my taste"
        yield ("listen",), "was not written"

    with pytest.raises(SettingsError) as caught:
        read(ENDPOINT, checks=[check])
    assert [(one.line, one.message) for one in caught.value.problems] == [
        (1, "was not written"),
        (3, "endpoints[0].match: is not to my taste"),
    ]


def test_the_process_environment_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("BARTIZAN_TEST_MODE", "monitor")
    (tmp_path / "c.yaml").write_text(ENDPOINT + "    mode: ${BARTIZAN_TEST_MODE}\n")
    assert load(tmp_path / "c.yaml").endpoints[0].mode is Mode.MONITOR
    assert "BARTIZAN_TEST_MODE" in os.environ


YAML_TEXT = st.lists(
    st.sampled_from([*"abk:-,[]{}&*!|>'\"%@`#?~<$ \n\t09.", "<<: ", "&a ", "*a ", "a: ", "- "])
).map("".join)


@given(st.one_of(st.binary(max_size=200), YAML_TEXT.map(str.encode)))
def test_any_bytes_are_settings_or_one_typed_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(load(path, environment={}), Settings)
    except SettingsError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
        assert str(error)


SNIPPETS = st.sampled_from(
    [
        "null", "true", "1", "-1", "0", "1.5", "x", "[]", "{}", "[1]", "{a: 1}", "''", "1e300",
        "[[]]", "/", "http://", "[http://a]", "learn", "{inputs: []}", "{inputs: [{}]}", "BZ-300",
        "{BZ-300: {exclude: [{}]}}", "[{name: x}]", "'a:b'", "unix:", "0.5", "2030-01-01",
    ]
)  # fmt: skip


@given(st.data())
def test_any_value_anywhere_is_settings_or_one_typed_error(tmp_path_factory, data):
    section = data.draw(st.sampled_from(sorted(Settings.model_fields)))
    below = keys_at((section, 0)) if section == "endpoints" else keys_at((section,))
    if below:
        keys = data.draw(st.lists(st.sampled_from(below), unique=True, max_size=4))
        body = ", ".join(f"{key}: {data.draw(SNIPPETS)}" for key in keys)
        body = f"[{{{body}}}]" if section == "endpoints" else f"{{{body}}}"
    else:
        body = data.draw(SNIPPETS)
    text = f"{section}: {body}\n" + (ENDPOINT if section != "endpoints" else "")
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text)
    try:
        settings = load(path, environment={})
        digest(settings)
    except SettingsError as error:
        assert error.problems
