"""Who may be forgotten: never one that holds evidence."""

from detectors.patterns.slots import TRIES, Slots


def filled(count):
    slots, left = Slots(count), []
    for index in range(count):
        slots.admit(str(index), lambda slot: True, left.append)
    return slots, left


def test_the_one_not_seen_for_longest_leaves():
    slots, left = filled(3)
    slots.touch("0")
    slot = slots.admit("new", lambda slot: True, left.append)
    assert left == [slot]
    assert [key for key, _ in slots.items()] == ["2", "0", "new"]
    assert slots.find("1") == 0
    assert slots.evictions == 1


def test_one_that_holds_evidence_never_leaves():
    slots, left = filled(3)
    guarded = slots.find("0")
    for index in range(50):
        slots.admit(f"new {index}", lambda slot: slot != guarded, left.append)
    assert slots.find("0") == guarded
    assert guarded not in left


def test_where_nobody_may_leave_the_newcomer_finds_no_room():
    slots, left = filled(40)
    asked = []
    assert slots.admit("new", lambda slot: bool(asked.append(slot)), left.append) == 0
    assert len(asked) == TRIES
    assert slots.refusals == 1
    assert len(slots) == 40 and "new" not in slots
    slots.admit("newer", lambda slot: bool(asked.append(slot)), left.append)
    assert len(set(asked)) == 2 * TRIES  # others are asked the next time


def test_a_slot_is_nobody_elses():
    slots, left = filled(5)
    for index in range(100):
        slots.admit(f"new {index}", lambda slot: True, left.append)
        taken = [slot for _, slot in slots.items()]
        assert len(set(taken)) == len(taken) and 0 not in taken
