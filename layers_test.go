package sneck_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Who may import whom, within this module. A package that is not in the table
// has to be put in it.
var layers = map[string][]string{
	"sneck/lock":      {},
	"sneck/interval":  {"sneck/lock"},
	"sneck/wal":       {"sneck/lock"},
	"sneck/deadlock":  {},
	"sneck/grace":     {"sneck/lock"},
	"sneck/conn":      {"sneck/lock"},
	"sneck/shard":     {"sneck/lock", "sneck/interval", "sneck/deadlock"},
	"sneck":           {"sneck/lock", "sneck/shard", "sneck/wal", "sneck/grace", "sneck/conn"},
	"sneck/fusefs":    {"sneck", "sneck/lock"},
	"sneck/cmd/sneck": {"sneck", "sneck/lock", "sneck/fusefs"},
}

func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(pkg, "sneck/internal/") || pkg == "sneck/bench" || pkg == "sneck/fuzz" || pkg == "sneck/e2e" {
			continue
		}
		allowed, known := layers[pkg]
		if !known {
			t.Errorf("%s is in no layer", pkg)
			continue
		}
		seen++
		for _, imp := range strings.Fields(imports) {
			if first, _, _ := strings.Cut(imp, "/"); first == "sneck" && !slices.Contains(allowed, imp) {
				t.Errorf("%s imports %s", pkg, imp)
			}
			if pkg == "sneck/lock" && strings.Contains(imp, ".") {
				t.Errorf("%s imports %s; it may import the standard library only", pkg, imp)
			}
		}
	}
	if seen != len(layers) {
		t.Errorf("%d of %d layers found", seen, len(layers))
	}
}
