"""The supply chain: what is declared, used and installed, under which licenses, and what is known against it."""
