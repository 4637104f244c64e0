"""What plugin authors test with: conformance suites, analytic targets, fixtures."""
