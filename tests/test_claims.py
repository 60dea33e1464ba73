import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy
import pytest
import torch

from resnorm import claims
from resnorm.claims import ClaimFailed, claim

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = """
- {id: it-holds, statement: A < B & so on, source: ba2016layer, chapter: one, level: identity, expected: holds}
- {id: it-depends, statement: Sometimes., source: folklore, chapter: one, level: identity, expected: holds only when deep}
- {id: it-does-not, statement: Never., source: folklore, chapter: two, level: small training, expected: does not hold}
- {id: who-can-tell, statement: Perhaps., source: folklore, chapter: two, level: small training, expected: undecided}
- {id: not-yet, statement: Who knows., source: folklore, chapter: two, level: identity, expected: not yet measured, reason: no GPU}
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of its own, with a folder for verdicts."""

    def write(text):
        (tmp_path / "book").mkdir(exist_ok=True)
        (tmp_path / "book/claims.yml").write_text(text)
        return tmp_path

    write(ENTRIES)
    entries = {entry["id"]: entry for entry in claims.read_claims(tmp_path)}
    monkeypatch.setattr(claims, "claims", lambda: entries)
    monkeypatch.setenv("RESNORM_CLAIMS", str(tmp_path / "verdicts"))
    return write


def verdicts(tmp_path):
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "verdicts").glob("*")}


@pytest.mark.parametrize(
    ("id", "holds", "verdict"),
    [
        ("it-holds", True, "holds"),
        ("it-depends", numpy.bool_(True), "holds only when deep"),
        ("it-does-not", False, "does not hold"),
        ("who-can-tell", None, "undecided"),
    ],
)
def test_an_expected_outcome_gives_a_card_and_a_verdict(book, tmp_path, id, holds, verdict):
    card = claim(id, {"ratio": numpy.float32(0.5), "seeds": 3}, holds, published="0.4", note="only on digits")
    assert card.verdict == verdict and card.measured == {"ratio": 0.5, "seeds": 3}
    (written,) = verdicts(tmp_path).values()
    assert written["id"] == id and written["verdict"] == verdict and written["measured"] == {"ratio": 0.5, "seeds": 3}


@pytest.mark.parametrize(
    ("id", "holds"),
    [
        ("it-holds", False),
        ("it-holds", None),
        ("it-depends", False),
        ("it-does-not", True),
        ("it-does-not", None),
        ("who-can-tell", True),
        ("who-can-tell", False),
    ],
)
def test_another_outcome_than_the_expected_one_fails_and_leaves_no_verdict(book, tmp_path, id, holds):
    with pytest.raises(ClaimFailed, match=f"'{id}' is expected to be .* measured 0.123"):
        claim(id, 0.12345, holds)
    assert verdicts(tmp_path) == {}


def test_a_claim_that_is_measured_cannot_stay_not_yet_measured(book):
    with pytest.raises(ClaimFailed, match="'not-yet' is now measured"):
        claim("not-yet", 1, True)


def test_bad_calls_say_what_is_allowed(book):
    with pytest.raises(ValueError, match="no claim 'nope'; add it to book/claims.yml, or use one of it-holds"):
        claim("nope", 1, True)
    for bad in (1, "yes", torch.tensor([True, False]), numpy.array([True, True])):
        with pytest.raises(TypeError, match="give one True or False"):
            claim("it-holds", 1, bad)


def test_without_a_folder_nothing_is_written(book, tmp_path, monkeypatch):
    monkeypatch.delenv("RESNORM_CLAIMS")
    claim("it-holds", 1, True)
    assert verdicts(tmp_path) == {}


def test_a_card_reads_in_text_and_in_html(book):
    card = claim("it-holds", {"ratio": 0.123456, "who": "<us>"}, True, published="0.1 [P]", note="small")
    assert str(card) == (
        "✓ holds: A < B & so on\n    Claimed by: Ba et al. (2016)\n"
        "    Evidence: identity: algebra, checked by a computation\n    Measured here: ratio: 0.1235; who: <us>\n"
        "    Published: 0.1 [P]\n    Note: small"
    )
    page = card._repr_html_()
    assert "A &lt; B &amp; so on" in page and "&lt;us&gt;" in page and "<us>" not in page
    assert "✓ Claim: holds" in page  # the verdict is never a colour alone
    assert "Published" not in claim("it-holds", 1, True)._repr_html_()
    with pytest.raises(FrozenInstanceError):
        card.verdict = "does not hold"


def test_the_texts_of_an_entry_stand_before_those_of_the_call(book):
    claims.claims()["it-holds"] |= dict(published="0.1 [P]", note="Small.")
    card = claim("it-holds", 1, True, note="Three seeds.")
    assert (card.published, card.note) == ("0.1 [P]", "Small. Three seeds.")
    assert claim("it-holds", 1, True, published="0.2 [P]").published == "0.1 [P] 0.2 [P]"


def test_a_torch_number_is_measured_as_a_number(book):
    assert claim("it-holds", torch.tensor(2.5), True).measured == 2.5


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            "{id: a, statement: S, source: s, chapter: c, level: identity, expected: holds, published: 0.1}",
            "'a' has the published 0.1; write it as text",
        ),
        ("{id: a, statement: S, source: s, chapter: c, level: identity}", "'a' has missing or unknown fields: expected"),
        ("{id: a, statement: S, source: s, chapter: c, level: huge, expected: holds}", "level 'huge'; allowed: identity, at init"),
        ("{id: a, statement: S, source: s, chapter: c, level: identity, expected: holds, forecast: 60}", "a probability from 0"),
        ("nothing", "'nothing' is no entry"),
        ("{id: a, statement: S, source: s, chapter: c, level: identity, expected: holds, colour: red}", "unknown fields: colour"),
        ("{id: a, statement: S, source: s, chapter: c, level: identity, expected: not yet measured}", "fields: reason"),
        ("{id: a, statement: S, source: s, chapter: c, level: identity, expected: true}", "'a' expects 'True'; allowed: holds"),
        ("{id: a, statement: S, source: s, chapter: c, level: identity, expected: holds only when}", "expects 'holds only when'"),
        ("{id: A b, statement: S, source: s, chapter: c, level: identity, expected: holds}", "'A b' is not lower-case"),
        ("{id: it-holds, statement: S, source: s, chapter: c, level: identity, expected: holds}", "'it-holds' is used twice"),
    ],
)
def test_wrong_entries_are_named(book, entry, words):
    home = book(ENTRIES + "- " + entry)
    with pytest.raises(ValueError, match=words):
        claims.read_claims(home)


def test_the_claims_of_a_study_stand_beside_its_plan(book, tmp_path):
    (tmp_path / "studies/zoo").mkdir(parents=True)
    contest = "- {id: a-beats-b, statement: S., source: s, chapter: c, level: small training, expected: holds, rule: beats}"
    (tmp_path / "studies/zoo/claims.yml").write_text(contest)
    entry = claims.read_claims(tmp_path)[-1]
    assert entry["study"] == "zoo" and entry["file"] == "studies/zoo/claims.yml" and entry["rule"] == "beats"
    (tmp_path / "studies/zoo/claims.yml").write_text(contest.replace("a-beats-b", "it-holds"))
    with pytest.raises(ValueError, match="studies/zoo/claims.yml: the id 'it-holds' is used twice, here and in book/claims.yml"):
        claims.read_claims(tmp_path)


def test_a_setting_that_cannot_speak_leaves_a_claim_untested(book):
    with pytest.raises(ClaimFailed, match="expected to be 'does not hold', but not tested here"):
        claim("it-does-not", 1, False, untested="the network is at chance")


def test_the_books_own_claims_are_in_order():
    for entry in claims.claims().values():
        assert entry["statement"].endswith(".")
        assert (ROOT / "notebooks" / f"{entry['chapter']}.ipynb").exists() or entry["expected"] == "not yet measured"


def test_links_of_chapters_call_a_source_as_the_cards_do():
    """Of those whose name and year another source has, too."""
    labels = {key: claims.cite(key) for key in claims._citations()}
    lettered = {key: label for key, label in labels.items() if label[-2].isalpha()}
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL)
    urls = {found[1]: key for key, body in entries if (found := re.search(r"url = \{(.*?)\}", body))}
    for page in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]:
        for label, url in re.findall(r"\[([^\[\]]+, \d{4}[a-z]?)\]\((https?://[^)\s]+)\)", page.read_text(encoding="utf-8")):
            if (key := urls.get(url)) in lettered:
                assert label == lettered[key].replace(" (", ", ").rstrip(")"), f"{page.name}: {label} is {lettered[key]}"


def test_citations_read_as_names_and_years():
    assert claims.cite("ba2016layer") == "Ba et al. (2016)"
    assert claims.cite("ioffe2015batch") == "Ioffe and Szegedy (2015)"
    assert claims.cite("a blog post") == "a blog post"
    assert claims.cite("he2016deep") == "He et al. (2016a)" and claims.cite("he2016identity") == "He et al. (2016b)"
    labels = list(claims._citations().values())
    assert len(set(labels)) == len(labels)
    assert len(claims._citations()) == (ROOT / "book" / "references.bib").read_text().count("\n@")
