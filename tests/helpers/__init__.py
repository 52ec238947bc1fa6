"""What several tests share: seeded data, slow references, malformed inputs. The tests find these modules by name."""
