"""A project of one measure, one threshold, one injected fault and one claim, for the tests of the gate's verbs."""

FILE = """
faults = "faults.toml"
claims = "claims.toml"
[[tiers]]
name = "small"
summary = "s"
[[measures]]
name = "text"
tier = "small"
command = "grep -q good code.txt"
next = "n"
[[thresholds]]
metric = "text.lines"
operator = ">="
value = 3
tier = "small"
why = "w"
"""
FAULT = '[[faults]]\nmeasure = "text"\nfile = "code.txt"\nbefore = "good"\nafter = "{}"\nshows = "text.lines"\n'
CLAIM = '[[claims]]\nsays = "long"\ncommand = "make"\nmetric = "text.lines"\noperator = ">="\nvalue = 3\n'
