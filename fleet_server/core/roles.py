"""What a person may do: four roles, each with everything the one before it may. Pure."""

from enum import StrEnum


class Role(StrEnum):
    """Roles, the least first."""

    VIEWER = "viewer"
    """Reads the fleet."""
    OPERATOR = "operator"
    """Adds and revokes devices, defines groups, plans and steers rollouts."""
    APPROVER = "approver"
    """Approves models, with a key of their own; over the API the same as an operator."""
    ADMIN = "admin"
    """Makes people and reads the audit log."""

    def reaches(self, needed: "Role") -> bool:
        """Tell whether this role may do what ``needed`` may.

        >>> Role.ADMIN.reaches(Role.VIEWER), Role.OPERATOR.reaches(Role.APPROVER)
        (True, False)
        """
        order = list(Role)
        return order.index(self) >= order.index(needed)


def find_lesser(one: Role, other: Role) -> Role:
    """Give the role that may less: a token never may more than its person may today.

    >>> str(find_lesser(Role.ADMIN, Role.OPERATOR))
    'operator'
    """
    return other if one.reaches(other) else one
