package discovery

import (
	"maps"
	"slices"

	"github.com/lbproxy/lbproxy/internal/strictyaml"
)

type servicesFile struct {
	Services map[string][]fileInstance `yaml:"services"`
}

type fileInstance struct {
	Addr    string `yaml:"addr"`
	Version string `yaml:"version"`
	Weight  int    `yaml:"weight"`
}

// SetDefaults makes i what it is where the file says nothing.
func (i *fileInstance) SetDefaults() { i.Weight = DefaultWeight }

// parseInstances reads the services file at path. Its error holds all faults, each with its line. Where a list
// is missing that is a fault, because nothing is also what a file holds that has yet to be written.
func parseInstances(path string, data []byte) (map[string][]Instance, error) {
	var doc servicesFile
	faults := strictyaml.Decode(path, data, &doc)
	root := strictyaml.Path("services")
	if doc.Services == nil {
		faults.Add(root, `there are none; write "services: {}" if that is meant`)
	}
	services := make(map[string][]Instance, len(doc.Services))
	for _, name := range slices.Sorted(maps.Keys(doc.Services)) {
		at := root.Key(name)
		faults.Check(at, ValidateService(name))
		if doc.Services[name] == nil {
			faults.Add(at, `there are no instances; write "%s: []" if that is meant`, name)
		}
		services[name] = checkInstances(faults, at, path, doc.Services[name])
	}
	return services, faults.Err()
}

// checkInstances makes the instances of one service of their entries in the file, and faults of what is wrong.
func checkInstances(faults *strictyaml.Faults, at strictyaml.Path, file string, entries []fileInstance) []Instance {
	instances := make([]Instance, 0, len(entries))
	seen := map[string]strictyaml.Path{}
	for i, entry := range entries {
		at := at.Index(i)
		faults.Check(at.Key("addr"), ValidateAddr(entry.Addr))
		faults.Check(at.Key("version"), ValidateVersion(entry.Version))
		faults.Check(at.Key("weight"), ValidateWeight(entry.Weight))
		if first, ok := seen[entry.Addr]; ok && entry.Addr != "" {
			faults.Add(at.Key("addr"), "address %q is listed twice, first in line %d; remove one", entry.Addr, faults.Line(first))
		}
		seen[entry.Addr] = at
		instances = append(instances, Instance{Addr: entry.Addr, Version: entry.Version, Weight: entry.Weight, Key: file})
	}
	return sortUnique(instances)
}
