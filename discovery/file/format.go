package file

import (
	"maps"
	"slices"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/strictyaml"
)

type document struct {
	Services map[string][]entry `yaml:"services"`
}

type entry struct {
	Addr    string `yaml:"addr"`
	Version string `yaml:"version"`
	Weight  int    `yaml:"weight"`
}

// SetDefaults makes e what it is where the file says nothing.
func (e *entry) SetDefaults() { e.Weight = discovery.DefaultWeight }

// parseInstances reads the services file at path. Its error holds all faults, each with its line. Where a list
// is missing that is a fault, because nothing is also what a file holds that has yet to be written.
func parseInstances(path string, data []byte) (map[string][]discovery.Instance, error) {
	var doc document
	faults := strictyaml.Decode(path, data, &doc)
	root := strictyaml.Path("services")
	if doc.Services == nil {
		faults.Add(root, `there are none; write "services: {}" if that is meant`)
	}
	services := make(map[string][]discovery.Instance, len(doc.Services))
	for _, name := range slices.Sorted(maps.Keys(doc.Services)) {
		at := root.Key(name)
		faults.Check(at, discovery.ValidateService(name))
		if doc.Services[name] == nil {
			faults.Add(at, `there are no instances; write "%s: []" if that is meant`, name)
		}
		services[name] = checkInstances(faults, at, path, doc.Services[name])
	}
	return services, faults.Err()
}

// checkInstances makes the instances of one service of their entries in the file, and faults of what is wrong.
func checkInstances(faults *strictyaml.Faults, at strictyaml.Path, file string, entries []entry) []discovery.Instance {
	instances := make([]discovery.Instance, 0, len(entries))
	seen := map[string]strictyaml.Path{}
	for i, e := range entries {
		at := at.Index(i)
		faults.Check(at.Key("addr"), discovery.ValidateAddr(e.Addr))
		faults.Check(at.Key("version"), discovery.ValidateVersion(e.Version))
		faults.Check(at.Key("weight"), discovery.ValidateWeight(e.Weight))
		if first, ok := seen[e.Addr]; ok && e.Addr != "" {
			faults.Add(at.Key("addr"), "address %q is listed twice, first in line %d; remove one", e.Addr, faults.Line(first))
		}
		seen[e.Addr] = at
		instances = append(instances, discovery.Instance{Addr: e.Addr, Version: e.Version, Weight: e.Weight, Key: file})
	}
	return discovery.SortUnique(instances)
}
