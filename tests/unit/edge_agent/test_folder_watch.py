"""Which files of a watched folder become frames."""

from edge_agent.core.folder_watch import FRAMES_PER_LOOK_MAX, Look, begin_watch, find_fresh


def watch(looks: list[Look], *, is_taking_existing: bool = False) -> list[tuple[str, ...]]:
    known = begin_watch(looks[0], is_taking_existing=is_taking_existing)
    found = []
    for look in looks[1:]:
        fresh = find_fresh(known, look)
        known = fresh.watch
        found.append(fresh.names)
    return found


def test_a_file_is_a_frame_once_when_it_stands_still() -> None:
    looks: list[Look] = [{}, {"a": (1, 5)}, {"a": (2, 9)}, {"a": (2, 9)}, {"a": (2, 9)}]
    assert watch(looks) == [(), (), ("a",), ()]


def test_the_same_name_written_again_is_a_new_frame() -> None:
    looks: list[Look] = [{"a": (1, 5)}, {"a": (3, 5)}, {"a": (3, 5)}, {}, {"a": (3, 5)}]
    assert watch([*looks, {"a": (3, 5)}]) == [(), ("a",), (), (), ("a",)]


def test_what_is_there_already_is_taken_only_when_asked_for() -> None:
    looks: list[Look] = [{"a": (1, 5)}, {"a": (1, 5)}]
    assert watch(looks) == [()]
    assert watch(looks, is_taking_existing=True) == [("a",)]


def test_an_empty_file_is_no_frame() -> None:
    assert watch([{}, {"a": (1, 0)}, {"a": (1, 0)}]) == [(), ()]


def test_of_too_many_the_newest_are_taken_oldest_first() -> None:
    look: Look = {f"{n:03}": (1_000 - n, 5) for n in range(FRAMES_PER_LOOK_MAX + 3)}
    fresh = find_fresh(begin_watch(look, is_taking_existing=True), look)
    assert (len(fresh.names), fresh.dropped) == (FRAMES_PER_LOOK_MAX, 3)
    assert (fresh.names[0], fresh.names[-1]) == ("031", "000")
    assert find_fresh(fresh.watch, look).names == ()
