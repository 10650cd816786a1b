"""The gatekeeper: sessions, and one recorded judgement for every call."""
