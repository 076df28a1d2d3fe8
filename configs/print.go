package configs

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/lbproxy/lbproxy/internal/strictyaml"
)

// Redacted returns c without secrets, to show to people. The names of files that hold secrets stay.
func (c *Config) Redacted() *Config {
	shown := *c
	if c.Discovery.Etcd != nil {
		etcd := *c.Discovery.Etcd
		etcd.Endpoints = slices.Clone(etcd.Endpoints)
		for i, endpoint := range etcd.Endpoints {
			etcd.Endpoints[i] = redactURL(endpoint)
		}
		shown.Discovery.Etcd = &etcd
	}
	return &shown
}

// redactURL masks the user and password in a URL, or in what was meant to be one.
func redactURL(s string) string {
	end := strings.LastIndexByte(s, '@')
	if end < 0 {
		return s
	}
	start := 0
	if i := strings.Index(s[:end], "://"); i >= 0 {
		start = i + len("://")
	}
	return s[:start] + "xxxxx" + s[end:]
}

// MarshalYAML writes c as a file that [Parse] accepts.
func (c Config) MarshalYAML() ([]byte, error) {
	type plain Config // has no MarshalYAML
	return yaml.MarshalWithOptions(plain(c), strictyaml.QuoteAll)
}

// MarshalJSON writes c with the keys of the file, and durations as text.
func (c Config) MarshalJSON() ([]byte, error) {
	data, err := c.MarshalYAML()
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(data)
}
