"""Merges for new words, by hand."""

from unclip.vocabulary_growth import joined, new_merges


def test_the_most_frequent_pair_is_merged_first_and_known_words_keep_theirs() -> None:
    words = {"abab": 3, "abc": 2, "xyz": 1}
    found = new_merges(words, {"bc"}, list, set("abcxyz"), 9)
    # "ab" is there 8 times; then "ab ab"; "b c" is of a known word, so that abc ends as ab and c,
    # which is there twice; nothing of xyz is there twice.
    assert found == [("a", "b"), ("ab", "ab"), ("ab", "c")]
    assert new_merges(words, {"bc"}, list, set("abcxyz"), 1) == [("a", "b")]
    assert ("a", "b") not in new_merges(words, {"bc", "ab"}, list, set("abcxyz"), 9)
    assert ("a", "b") not in new_merges(words, (), list, {*"abcxyz", "ab"}, 9)


def test_places_of_a_pair_are_joined_from_the_left() -> None:
    assert joined(list("aaab"), ("a", "a")) == ["aa", "a", "b"]
    assert joined(list("xabab"), ("a", "b")) == ["x", "ab", "ab"]
