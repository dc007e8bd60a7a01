"""Request and reply classes by family; `verbs.py` says which verb carries which."""
