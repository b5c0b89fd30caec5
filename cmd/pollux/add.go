package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) addCommand() *cobra.Command {
	var req api.AddRequest
	cmd := &cobra.Command{
		Use:   "add PATH",
		Short: "Import a file or a directory and keep it",
		Long: `Import a file or a directory and keep it.

Left out are files and directories whose name starts with a dot, unless --hidden
is given, and what .polluxignore files in the tree match; their syntax is that of
.gitignore.`,
		Args: exactly(1),
		RunE: does(func(ctx context.Context, args []string) (err error) {
			if req.Path, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.Add(ctx, req, show)
			done()
			if err != nil {
				return err
			}
			return a.printAdded(args[0], res)
		}),
	}
	cmd.Flags().BoolVar(&req.Hidden, "hidden", false, "include files and directories whose name starts with a dot")
	cmd.Flags().BoolVar(&req.Rehash, "rehash", false, "read all files again, even those that did not change")
	cmd.Flags().BoolVar(&req.AllowSecrets, "allow-secrets", false, "publish even what looks secret, such as private keys")
	return cmd
}

// printAdded tells what was added from path.
func (a *app) printAdded(path string, res api.AddResult) error {
	switch {
	case a.json:
		return a.printJSON(res)
	case a.quiet:
		return a.printf("%s\n", res.Root)
	}
	a.printf("Added %s: %s, %s (%s new)\n", printable(path), count(res.Files, "file", "files"), size(res.Bytes), size(res.NewBytes))
	a.printf("  root    %s\n", res.Root)
	if res.URL == "" {
		return a.printf("  serve   pollux daemon\n")
	}
	a.printf("  read    %s\n", res.URL)
	return a.printf("  mirror  pollux follow %s   (on another machine)\n", res.Root)
}
