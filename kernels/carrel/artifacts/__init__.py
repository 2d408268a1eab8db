"""Artifacts: named, typed data of sessions, each content kept once.

`service` stores, finds, reads and deletes them, `records` is what of that is in the database,
`captures` what of an execution becomes artifacts; the contents are in carrel.store.blobs.
"""
