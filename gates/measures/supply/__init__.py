"""The supply chain: what is declared, used and installed, under which licences, and what is known against it."""
