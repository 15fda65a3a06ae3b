from fluvial.bench.stream.page import read_page


def test_words_stay_in_order_and_blocks_are_lines() -> None:
    page = (
        "<html><head><title>no</title></head><body><h1>Title\n of it</h1>"
        "<p>One <b>two</b>\n   three &amp; &#22235;<br/>five</p><ul><li>six</li><li> seven</li>"
        "</ul></body></html>"
    )
    assert read_page(page) == "Title of it\nOne two three & 四\nfive\nsix\nseven\n"


def test_code_keeps_its_spaces() -> None:
    page = "<p>See:</p><pre>if <b>a</b>:\n    b  = 1\n\n</pre><p> after </p>"
    assert read_page(page) == "See:\nif a:\n    b  = 1\nafter\n"


def test_navigation_is_left_out_with_all_in_it() -> None:
    page = (
        '<div id="banner"><a><span>buy</span></a></div><ul class="docnav top"><li>next<br></li>'
        '</ul><script>x < 1</script><div class="toc"><div>1</div>2</div><p>text</p>'
    )
    assert read_page(page) == "text\n"


def test_damaged_markup_gives_what_text_there_is() -> None:
    assert read_page("</p></div>a<p>b</li><pre>c") == "a\nb\nc\n"
    assert read_page("") == ""
