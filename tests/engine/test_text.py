from fluvial.engine.text import TextDecoder


def push_all(*pieces: bytes) -> list[str]:
    decoder = TextDecoder()
    return [*(decoder.push(piece) for piece in pieces), decoder.finish()]


def test_character_waits_for_its_last_byte():
    assert push_all(*(bytes([byte]) for byte in "a你👋".encode())) == [
        "a", "", "", "你", "", "", "", "👋", "",
    ]  # fmt: skip


def test_character_that_never_ends_is_replaced_once():
    assert push_all(b"a\xf0\x9f", b"\x91") == ["a", "", "\ufffd"]


def test_invalid_bytes_are_replaced_as_in_the_whole():
    pieces = [b"\xff", b"\xe4\xbd", b"x", b"\xc0\xaf", b"\xed\xa0", b"\x80"]
    assert "".join(push_all(*pieces)) == b"".join(pieces).decode("utf-8", "replace")


def test_empty_pieces_change_nothing():
    assert push_all(b"\xe4", b"", b"\xbd", b"", b"\xa0") == ["", "", "", "", "你", ""]
