"""Settings that every test shares."""

from hypothesis import settings

# Machines differ and are shared: how long an example takes says nothing about the code.
settings.register_profile("radixserve", deadline=None)
settings.load_profile("radixserve")
