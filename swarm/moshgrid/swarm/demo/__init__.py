"""The demo: a small real swarm on this computer, one process per volunteer, some of them killed."""
