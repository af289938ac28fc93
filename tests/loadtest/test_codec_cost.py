"""The benchmark of codecs: every spelling says the same rows, and the tables tell of all."""

import numpy as np
import pytest

from loadtest.codec_cost import FEATURES, Reading, markdown
from loadtest.comparison import Sample
from loadtest.image_cost import image_costs, lines_of
from loadtest.spellings import SPELLINGS, V2_JSON

ROWS = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.title)
def test_a_spelling_says_the_rows(spelling):
    reading = Reading.of(spelling, ROWS)
    request = reading.request()
    if spelling.scored:
        assert request.rows.tobytes() == ROWS.tobytes()
    assert reading.codec.encode_request(request)[1]


def test_every_protocol_over_http_is_measured():
    assert len(SPELLINGS) == 16
    assert {Reading.of(spelling, ROWS).codec.name for spelling in SPELLINGS} == {
        "invocations", "json", "openai", "sagemaker", "seldon", "torchserve", "v1", "v2"
    }  # fmt: skip


def test_paths_and_titles_are_each_its_own():
    assert len({spelling.match for spelling in SPELLINGS}) == len(SPELLINGS)
    assert len({spelling.title for spelling in SPELLINGS}) == len(SPELLINGS)


def test_ratios_are_taken_within_a_round():
    samples = [
        Sample(peer, "", round_, rate, 1e-4, 0.9, 0.0, 2e-4, 3e-4)
        for round_, rates in enumerate(((1000, 500), (3000, 1500)))
        for peer, rate in zip((V2_JSON, "v1, rows"), rates, strict=True)
    ]
    text = markdown({V2_JSON: [(100, 1.0, 2.0), (3000, 30.0, 40.0)]}, {}, samples)
    assert "| v2, JSON | 100 | 1.0 | 2.0 | 3,000 | 30.0 | 40.0 |" in text
    assert "| v1, rows | 1,000 (500 to 1,500) | 0.50 (0.50 to 0.50) | 100" in text


def test_images_are_measured_in_either_format():
    pytest.importorskip("PIL")
    calls = []
    found = image_costs(lambda call: calls.append(call()) or 7.0)
    assert len(found) == 4
    assert len(calls) == 8
    text = "\n".join(lines_of(found))
    assert "| PNG, 28 x 28, grey |" in text
    assert "| JPEG, 224 x 224, colour |" in text
    assert lines_of({}) == []
