"""Parts that know no API: types, errors, ids, encryption, shutdown."""
