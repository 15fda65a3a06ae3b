from fluvial.bench.stream.wiki import read_paragraphs

PAGE = """<page><text xml:space="preserve">{{Infobox|a={{nested}}}}
'''Cats''' are [[animal]]s that [[sleep|rest]].&lt;ref name=x&gt;A book&lt;/ref&gt; They purr{{cite}} a lot.
* A list entry that is long enough to be a paragraph of its own.
See also [[File:Cat.jpg|a cat]] which has a picture in it, so it stays out.
lower case beginnings are continued lines, and stay out as well, always.
Dogs &amp; birds are other animals, and this is the second paragraph.
</text></page>
<page><text>Short.</text></page><page><text/></page>"""  # noqa: E501


def test_links_and_quotes_become_text_and_the_rest_goes() -> None:
    found = list(read_paragraphs(PAGE, per_page=9, chars=range(20, 200)))
    assert found == [
        "Cats are animals that rest. They purr a lot.",
        "Dogs & birds are other animals, and this is the second paragraph.",
    ]


def test_only_the_first_of_each_page_and_only_of_the_right_length() -> None:
    assert len(list(read_paragraphs(PAGE * 2, per_page=1, chars=range(20, 200)))) == 2
    assert list(read_paragraphs(PAGE, per_page=9, chars=range(1, 10))) == ["Short."]
