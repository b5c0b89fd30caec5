package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"pollux/dag"
	"pollux/node/api"
)

func (a *app) lsCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ls TARGET[/path]",
		Short: "List a directory",
		Args:  exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			target, err := api.ParseTarget(args[0])
			if err != nil {
				return err
			}
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			get := blocks{svc, timeout}
			top, err := dag.Resolve(ctx, get, target.Root, target.Path)
			if err != nil {
				return err
			}
			if top.Kind != dag.KindDirectory {
				return a.printEntry(top)
			}
			for entry, err := range dag.List(ctx, get, top.CID) {
				if err != nil {
					return err
				}
				if err := a.printEntry(entry); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}

// listed is an entry as JSON.
type listed struct {
	Name   string `json:"name"` // what is not UTF-8 in it is replaced by U+FFFD
	CID    string `json:"cid"`
	Type   string `json:"type"`             // "file", "directory" or "symlink"
	Size   int64  `json:"size"`             // bytes of a file; 0 for a directory
	Target string `json:"target,omitempty"` // of a symlink
}

func (a *app) printEntry(e dag.Entry) error {
	switch {
	case a.json:
		return a.printJSON(listed{e.Name, e.CID.String(), e.Kind.String(), e.Size, e.Target})
	case a.quiet:
		return a.printf("%s\n", printable(e.Name))
	case e.Kind == dag.KindDirectory:
		return a.printf("%s  %8s  %s/\n", e.CID, "-", printable(e.Name))
	case e.Kind == dag.KindSymlink:
		return a.printf("%s  %8s  %s -> %s\n", e.CID, "-", printable(e.Name), printable(e.Target))
	default:
		return a.printf("%s  %8s  %s\n", e.CID, size(e.Size), printable(e.Name))
	}
}
