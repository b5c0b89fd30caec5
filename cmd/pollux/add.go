package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"pollux/dag"
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
.gitignore.

The root depends on names and contents alone, but with --preserve on permissions and
times too. --chunker fastcdc suits large files that grow or shrink in the middle,
such as archives and databases: a new version costs the chunks that changed. Each
chunker gives larger files other CIDs.`,
		Args: exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			req.Path = api.Raw(path)
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
	cmd.Flags().BoolVar(&req.Preserve, "preserve", false, "keep permissions and modification times")
	req.Chunker = dag.Chunker{}.String()
	cmd.Flags().Var((*chunker)(&req.Chunker), "chunker", "cut files by `method`: size-N (N bytes) or fastcdc (by content)")
	return cmd
}

// chunker is what dag.ParseChunker reads, as a flag.
type chunker string

func (c *chunker) String() string { return string(*c) }
func (c *chunker) Type() string   { return "string" }

func (c *chunker) Set(text string) error {
	_, err := dag.ParseChunker(text)
	*c = chunker(text)
	return err
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
