"""What of a request is kept for a replay, and what is not."""

from proxy.cli.replay_text import print_log
from proxy.recording import kept_headers


def test_only_headers_that_codecs_read_are_kept_and_of_sagemakers_only_that_they_were_there():
    kept = kept_headers(
        [
            (b"content-type", b"text/csv"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer s3cret"),
            (b"x-api-key", b"s3cret"),
            (b"cookie", b"s3cret"),
            (b"x-amzn-sagemaker-session-id", b"s3cret"),
        ]
    )
    assert kept == {"content-type": "text/csv", "x-amzn-sagemaker-session-id": "..."}


def test_no_log_commands_a_terminal(capsys):
    difference = {
        "id": "\x1b]0;pwn\x07",
        "time": "now",
        "differs": {"action": {"was": 1, "now": 2}},
    }
    told = dict.fromkeys(("exchanges", "equal", "unequal", "played"), 1)
    lists = {"broken": [], "notes": [], "as_recorded": {}, "differences": [difference]}
    print_log({**told, **lists, "seconds": 1.0})
    out = capsys.readouterr().out
    assert "?]0;pwn?" in out
    assert "\x1b" not in out and "\x07" not in out
