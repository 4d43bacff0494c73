# SPDX-License-Identifier: Apache-2.0

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Always Debian's own interpreter, never the first one on PATH.
PYTHON := /usr/bin/python3
VENV_PYTHON := .venv/bin/python
DEBIAN_PYTHON := env PYTHONNOUSERSITE=1 $(PYTHON)
# demo needs root, and asks as another user.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || command -v sudo)
# What `make bench` is told, such as --list.
BENCH :=
# Where `make proto` writes.
OUT := proto

RUNTIME_PACKAGES := python3-click python3-grpcio python3-numpy python3-protobuf python3-rich \
	python3-systemd libseccomp2
PROTO_PACKAGES := protobuf-compiler protobuf-compiler-grpc
# The first writes the manual pages, the others check them.
MAN_PACKAGES := python3-docutils groff-base mandoc
# systemd-python has no wheels: it is compiled against libsystemd.
SETUP_PACKAGES := $(RUNTIME_PACKAGES) $(PROTO_PACKAGES) $(MAN_PACKAGES) python3-hypothesis \
	python3-jsonschema python3-matplotlib python3-prometheus-client python3-pytest python3-venv \
	python3-dev gcc libc6-dev libsystemd-dev pkg-config
# For the examples in other languages, which only `make test` builds, and that of Redis. The package
# redis-server would start one; redis-tools have the same program.
EXAMPLE_PACKAGES := g++ libgrpc++-dev libprotobuf-dev nodejs npm redis-tools
# Where Tab is pressed, as well.
SHELL_PACKAGES := bash-completion fish zsh

# What builds the Debian packages, by name, and what judges them.
DEB_PACKAGES := $(shell sed -n '/^Build-Depends:/,/^$$/s/^ \([a-z0-9+.-]*\).*/\1/p' \
	packaging/debian/control) build-essential lintian

# For machines to boot.
SYSTEM_PACKAGES := $(RUNTIME_PACKAGES) mmdebstrap python3-pytest systemd-container

.PHONY: help setup setup-packages example-packages shell-packages demo test test-system check \
	bench screenshots proto deb clean

help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

setup: .venv/ready .node/ready example-packages shell-packages ## Install what is missing: Debian packages, and .venv from PyPI

.venv/ready: pyproject.toml | setup-packages
	umask 022 && $(PYTHON) -m venv --clear .venv && \
		$(VENV_PYTHON) -m pip install --quiet --use-pep517 --editable '.[daemon,dev]'
	touch $@

# The Node example's packages as its lock file says, for the tests. None of them needs its scripts.
.node/ready: client/examples/node/package-lock.json | example-packages
	umask 022 && mkdir -p .node && cp client/examples/node/package*.json .node && \
		npm ci --prefix .node --ignore-scripts --no-audit --no-fund --no-update-notifier
	touch $@

setup-packages:
	@packaging/prerequisites $(SETUP_PACKAGES)

example-packages: setup-packages
	@packaging/prerequisites $(EXAMPLE_PACKAGES)

shell-packages:
	@packaging/prerequisites $(SHELL_PACKAGES)

demo: ## Ask a private daemon what has been copied, as user nobody
	@packaging/prerequisites $(RUNTIME_PACKAGES)
	@$(SUDO) tests/publicly packaging/demo

# The second run is on what dpkg installed, or not at all.
test: setup ## Run all tests: on the newest releases, then on Debian's
	tests/publicly $(VENV_PYTHON) -m pytest
	$(DEBIAN_PYTHON) -c 'import grpc, numpy, google.protobuf as protobuf; \
		print(grpc.__file__, numpy.__file__, protobuf.__file__)' \
		| xargs dpkg-query --search | cut --delimiter=: --fields=1 | xargs dpkg-query --show
	tests/publicly $(DEBIAN_PYTHON) -m pytest -m 'not pypi and not once'

# On Debian's own pytest: what is tested is in the machines.
test-system: deb .venv/ready ## Install the packages on booted Debian 12 and 13; needs root
	@packaging/prerequisites $(SYSTEM_PACKAGES)
	tests/publicly $(DEBIAN_PYTHON) -m pytest tests/system --durations=10

check: .venv/ready ## Format, lint, types and unit tests in under a minute, without root
	$(VENV_PYTHON) -m ruff format --diff
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy
	tests/publicly $(VENV_PYTHON) -m pytest --numprocesses=auto tests/unit

# A missed bound is told, and no failure: a machine may be busy. BENCH=--require makes it one.
bench: .venv/ready ## Measure cowd side by side with programs in C and with gRPC alone; needs root
	tests/publicly env PYTHONPATH=proto:daemon:client:tests $(VENV_PYTHON) -m bench $(BENCH)

screenshots: .venv/ready ## Take the pictures in the README anew; needs root
	tests/publicly env PYTHONPATH=proto:daemon:client:tests $(VENV_PYTHON) packaging/screenshots/render.py

# The virtual path keeps the generated modules out of the way of the library `cowd`.
proto: ## Generate proto/cowproto/v1 with Debian 12's own compilers
	@packaging/prerequisites $(PROTO_PACKAGES)
	protoc -Icowproto/v1=proto/cowd/v1 --python_out=$(OUT) --pyi_out=$(OUT) \
		--grpc_python_out=$(OUT) --plugin=protoc-gen-grpc_python="$$(command -v grpc_python_plugin)" \
		cowproto/v1/pageflags.proto
	protoc -Icowproto/v1=proto/cowd/twins/v1 --python_out=$(OUT) --pyi_out=$(OUT) \
		cowproto/v1/twins.proto

# Debian 12's lintian and 13's differ in one tag that we override, and in the newest standards.
deb: ## Build the Debian packages in build/deb, and have lintian judge them
	@packaging/prerequisites $(DEB_PACKAGES)
	rm -rf build/deb
	packaging/build-deb build/deb
	lintian --allow-root --display-info --pedantic --tag-display-limit=0 \
		--suppress-tags=alien-tag,out-of-date-standards-version \
		--fail-on=error,warning,info,pedantic build/deb/*.changes
	@echo 'Now, as root: apt install ./build/deb/{cowd,cowctl,python3-cowd}_*.deb'

clean: ## Remove .venv and all that was built
	rm -rf .venv .node client/examples/cpp/build build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
