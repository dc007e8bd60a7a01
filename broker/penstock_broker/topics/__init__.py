"""Topics: ordered partitions that any number of groups read at their own pace."""
