"""Programs for developers; the installed package does not contain them."""
