"""The table of attacks in the documentation is the suite."""

from collections import Counter

from tests.attacks.catalog import COMMAND, PAGE, find_section, read_attacks, write_section

ATTACKS_MIN = 70


def test_the_table_of_attacks_is_the_suite() -> None:
    assert find_section(PAGE.read_text()) == write_section(read_attacks()), f"run {COMMAND}"


def test_every_attack_has_a_name_of_its_own_and_says_what_stops_it() -> None:
    attacks = read_attacks()
    assert len(attacks) >= ATTACKS_MIN
    names = Counter((attack.holder, attack.attempt) for attack in attacks)
    assert [name for name, count in names.items() if count > 1] == []
    for attack in attacks:
        assert attack.stop.endswith("."), attack.attempt
        assert "|" not in attack.attempt + attack.stop
        assert attack.code
