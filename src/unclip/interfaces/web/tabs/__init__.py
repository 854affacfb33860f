"""The page's tabs, a file each: a form, and the work that it asks for.

`table.py` has them in their order; `form.py` what they share.
"""
