"""Any entry comes back as it was written, and no line that is not one is taken for one."""

from hypothesis import given
from hypothesis import strategies as st

from fluvial.store.audit_check import check_lines
from fluvial.store.audit_entry import FIRST_PREVIOUS, MAX_LINE_BYTES, Entry

TEXT = st.text(st.characters(codec=None), max_size=60)
VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
WORD = st.from_regex(r"[a-z]{1,9}", fullmatch=True)
ENTRIES = st.builds(
    Entry,
    number=st.integers(1, 2**63),
    time=st.floats(0, 1e11),
    kind=st.builds(lambda one, two: f"{one}.{two}", WORD, WORD),
    actor=TEXT,
    subject=TEXT,
    detail=st.dictionaries(
        TEXT, VALUE.filter(lambda value: value not in (float("inf"), -float("inf"))), max_size=5
    ),
    previous=st.just(FIRST_PREVIOUS),
)


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    line = entry.encode()
    assert line.count(b"\n") == 1
    again = Entry.decode(line)
    assert again == entry
    assert again.sha256 == entry.sha256


@given(ENTRIES, st.data())
def test_a_line_that_was_changed_anywhere_is_none(entry: Entry, data: st.DataObject) -> None:
    line = bytearray(entry.encode())
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
    assert check_lines([bytes(line), entry.encode()]).problem is not None


@given(
    st.lists(st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"") + b"\n"), min_size=1)
)
def test_garbage_is_never_an_entry(lines: list[bytes]) -> None:
    found = check_lines(lines)
    assert (found.entries, found.broken) == (0, 1)
    assert found.problem is not None


@given(st.integers(0, 3))
def test_what_is_too_long_is_refused_unread(more: int) -> None:
    found = check_lines([b"{" * (MAX_LINE_BYTES + 1 + more)])
    assert found.problem is not None
    assert "over the limit" in found.problem
