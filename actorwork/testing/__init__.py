"""What tests are made with, yours and ours: servers, faults, conformance."""
