package main

import (
	"context"
	"time"
	"unicode/utf8"

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
	Name    string `json:"name"`               // what is not UTF-8 in it is replaced by U+FFFD
	NameRaw []byte `json:"name_raw,omitempty"` // the name, if it is not UTF-8
	CID     string `json:"cid"`
	Type    string `json:"type"`             // "file", "directory" or "symlink"
	Size    int64  `json:"size"`             // bytes of a file; 0 for a directory
	Target  string `json:"target,omitempty"` // of a symlink; as Name
}

func (a *app) printEntry(e dag.Entry) error {
	switch {
	case a.json:
		l := listed{Name: e.Name, CID: e.CID.String(), Type: e.Kind.String(), Size: e.Size, Target: e.Target}
		if !utf8.ValidString(e.Name) {
			l.NameRaw = []byte(e.Name)
		}
		return a.printJSON(l)
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
