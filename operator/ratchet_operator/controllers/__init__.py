"""What wakes the queue: kopf's watches, a resync, and the heartbeat that proves that the watches work.

Nothing here decides what to do about an object; the only outcome of an event is a key marked dirty.
"""
