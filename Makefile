# Every target works from a clean clone on a Debian-like machine with Go.

GO            ?= go
BENCH         ?= .
BENCHTIME     ?= 1s
BENCHCOUNT    ?= 1
FUZZTIME      ?= 5m
KILLS         ?= 200
IMAGES        ?= 50
CONCURRENT    ?= Concurrent|Freeze|Waiters|Nothing|Wait|Signal|Cancel|Kill
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: deps
deps: ## install the Debian packages that tests and demo use
	@./scripts/deps.sh

.PHONY: build
build: ## build bin/sneck
	$(GO) build -o bin/sneck ./cmd/sneck

.PHONY: demo
demo: deps build ## mount a scratch folder, run real programs on it, show who holds what, kill it
	@./scripts/demo.sh bin/sneck

.PHONY: test
test: deps ## all tests, with the race detector
	$(GO) test -race ./...

.PHONY: test-concurrent
test-concurrent: deps ## the concurrent tests, 20 times
	$(GO) test -race -count 20 -timeout 60m -run '$(CONCURRENT)' . ./shard ./wal ./fusefs

.PHONY: test-disk
test-disk: ## 5 million pairs of lock and unlock: disk use stays bounded (without the race detector)
	$(GO) test -count 1 -timeout 30m -run 'TestDiskUseIsBounded' -v .

.PHONY: test-kill
test-kill: ## kill a process under load KILLS times (200); nothing acknowledged is missing
	$(GO) test -race -count 1 -timeout 60m -run 'TestRestartKilled' -v . -kills $(KILLS)

.PHONY: test-crash
test-crash: ## a machine that stops or a disk that fails at every operation, IMAGES (50) random disks each
	$(GO) test -race -count 1 -timeout 120m -run 'TestRestartCrashed|TestRestartFaults|TestRestartDamaged' -v . -images $(IMAGES)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (5m), e.g. make fuzz FUZZ=FuzzOpenFiles
	@# Background goroutines make coverage differ from run to run: minimizing would go on for ever.
	for f in $(or $(FUZZ),$$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' fuzz/*_test.go)); do \
		$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x ./fuzz || exit 1; done

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: lint
lint: ## golangci-lint
	$(GOLANGCI_LINT) run ./...

.PHONY: bench
bench: ## the workloads on 1 and on 2 CPUs, e.g. make bench BENCH=W03 BENCHTIME=2s
	@# Not -cpu 1,2: the first round of a b.Loop would run on 2 CPUs and say 1.
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(BENCHCOUNT) -cpu 1 ./bench
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(BENCHCOUNT) -cpu 2 ./bench

.PHONY: ci
ci: ## what CI runs
	./.ci/run

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
