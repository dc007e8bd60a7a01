"""What each verb does: decode is done, so check, ask a machine for its plan, append, answer."""
