# The doors to the project. Each works on a fresh machine with Rust and, for what needs networks, root.
.PHONY: demo test lint bench soak

# A download through two firewalls whose path is cut ten times, in under a minute after the build.
demo:
	scripts/demo.sh

# Everything: unit tests, simulations, and the real programs in networks made for them.
test:
	scripts/test.sh

# Format, warnings, licences and sources of dependencies, links in the documentation.
lint:
	scripts/lint.sh

# The figures of docs/benchmarks.md, side by side with other tunnels.
bench:
	scripts/bench.sh

# The tests that take long, at full length.
soak:
	scripts/soak.sh
