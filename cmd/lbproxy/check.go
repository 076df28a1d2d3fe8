package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/configs"
)

func newCheckCommand() *cobra.Command {
	var path, output string
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Say what is wrong with a configuration file",
		Long:  "Say everything that is wrong with a configuration file. Exits with 0 when nothing is, and with 2 otherwise.",
		Example: `  lbproxy check --config /etc/lbproxy/lbproxy.yaml
  lbproxy check --config lbproxy.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configs.Load(path)
			switch output {
			case "text":
				if err != nil {
					return configError(err)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (%d listeners, %d services, %d routes)\n",
					path, len(cfg.Listeners), len(cfg.Services), len(cfg.Routes))
				return err
			case "json":
				if e := json.NewEncoder(cmd.OutOrStdout()).Encode(newCheckResult(path, err)); e != nil {
					return e
				}
				if err != nil {
					return configError(nil) // the JSON has said it
				}
				return nil
			}
			return usageError(fmt.Errorf("output %q is unknown; use text or json", output))
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration file")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // no such flag
	}
	return cmd
}

type checkResult struct {
	File   string   `json:"file"`
	OK     bool     `json:"ok"`
	Faults []string `json:"faults"`
}

func newCheckResult(path string, err error) checkResult {
	r := checkResult{File: path, OK: err == nil, Faults: []string{}}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, fault := range many.Unwrap() {
			r.Faults = append(r.Faults, fault.Error())
		}
	} else if err != nil {
		r.Faults = append(r.Faults, err.Error())
	}
	return r
}
