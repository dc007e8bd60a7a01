"""Consumer groups: what they have read so far. (Membership and assignment will live here, too.)"""
