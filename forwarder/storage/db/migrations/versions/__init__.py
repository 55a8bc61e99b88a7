"""The steps, in the order of their names; one that is released is never changed."""
