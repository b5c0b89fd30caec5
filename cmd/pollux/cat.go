package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pollux/dag"
	"pollux/node/api"
)

func (a *app) catCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "cat TARGET/path",
		Short: "Write a file to standard output",
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
			return a.cat(ctx, svc, target, timeout)
		}),
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}

// cat writes a file to standard output.
func (a *app) cat(ctx context.Context, svc service, target api.Target, timeout time.Duration) error {
	get := blocks{svc, timeout}
	// Asked first, so that a directory is not fetched whole for nothing.
	entry, err := dag.Resolve(ctx, get, target.Root, target.Path)
	if err != nil {
		return err
	}
	if entry.Kind != dag.KindFile {
		return fmt.Errorf("a %s, %w; `pollux get -o PATH` writes it to disk", entry.Kind, dag.ErrNotFile)
	}
	if _, err := a.fetch(ctx, svc, target, timeout); err != nil {
		return err
	}
	return dag.WriteFile(ctx, get, entry.CID, a.stdout)
}
