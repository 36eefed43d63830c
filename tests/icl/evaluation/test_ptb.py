"""Words of captions: what Stanford's PTBTokenizer 3.4.1, run with the evaluator's options, was seen to print."""

import pytest

from icl.evaluation.metrics import ptb

SEEN = """
A man and a dog.The cat sat. => a man and a dog.the cat sat
A cat,a dog and a bird. => a cat a dog and a bird
A man riding a wave.. => a man riding a wave
A man riding a wave!!! => a man riding a wave !!!
A man?! => a man ?!
A man on a bench -reading a book. => a man on a bench reading a book
A sign says "STOP". => a sign says stop
A sign that reads 'St. Paul's Ave.' => a sign that reads st. paul 's ave.
Clock reads 3:05pm => clock reads 3:05 pm
Bathroom with toilet/sink/shower => bathroom with toilet/sink/shower
A woman w/a dog => a woman w/a dog
A hot dog w/ mustard => a hot dog w / mustard
two dogs & a cat => two dogs & a cat
The giraffes' heads are above the fence => the giraffes heads are above the fence
a 3/4 view of a half-eaten donut => a 3/4 view of a half-eaten donut
A close-up of a stop sign => a close-up of a stop sign
A train #52 at the station => a train # 52 at the station
an '80s style tv => an '80s style tv
a 1960's car => a 1960 's car
A U.S.A. flag => a u.s.a. flag
A small (brown) [dog] => a small -lrb- brown -rrb- -lsb- dog -rsb-
it costs $5.99, 20% off => it costs $ 5.99 20 % off
A man can't see => a man ca n't see
A man cant see => a man cant see
A man cannot see, gonna fly => a man can not see gon na fly
we've, I'm, you'd, they'll, they're => we 've i 'm you 'd they 'll they 're
They isn't. Isn't it? => they is n't is n't it
O'Brien's pub => o'brien 's pub
ma'am at 4 o'clock => ma'am at 4 o'clock
rock 'n' roll, y'all => rock 'n' roll y' all
a jack-o-lantern and a merry-go-round => a jack-o-lantern and a merry-go-round
Mr. Smith on Main St. => mr. smith on main st.
no. 5 => no. 5
1,000 birds, 10,000.50 => 1,000 birds 10,000.50
-10 degrees on 12-25-2013 => -10 degrees on 12-25-2013
A man—woman, “A man” … => a man woman a man
naïve café Über 日本語 => naïve café über 日本語
a $5 = €5 ½ 25¢ => a $ 5 = $ 5 1/2 25 cents
AT&T and M&M's => at&t and m&m 's
a red shirt* + ~ | => a red shirt * + ~ |
"""


@pytest.mark.parametrize("line", SEEN.strip().split("\n"))
def test_words(line: str) -> None:
    caption, want = line.split(" => ")
    assert ptb.words(caption) == want.split()


def test_typographic_marks() -> None:
    assert ptb.words("A man\u2019s hat, don\u2019t \u2013 \u2018hi\u2019") == [
        "a",
        "man",
        "'s",
        "hat",
        "do",
        "n't",
        "hi",
    ]


def test_nothing_and_emoji() -> None:
    assert ptb.words("") == ptb.words(" \n\t") == ptb.words("... -- !") == ptb.words("😀") == []
    assert ptb.words("a\nb\u00a0c") == ["a", "b", "c"]
