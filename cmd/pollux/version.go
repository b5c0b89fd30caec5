package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what the binary was made from.
type build struct {
	Version  string `json:"version"`  // of the module; "(devel)" outside a release
	Revision string `json:"revision"` // of the source; "" if not known
	Modified bool   `json:"modified"` // the source differed from Revision
	Go       string `json:"go"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.json {
				return a.printJSON(b)
			}
			a.printf("pollux %s", b.Version)
			if b.Revision != "" {
				a.printf(" %s", b.Revision)
			}
			if b.Modified {
				a.printf(" (modified)")
			}
			return a.printf(" %s\n", b.Go)
		},
	}
}

func readBuild() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build{}
	}
	b := build{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
