package api

import (
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// Target is what a command works on: a DAG, and a path within it.
type Target struct {
	Root cid.Cid
	Path string // slash-separated names below Root, without a slash at either end; "" is Root itself
}

// ParseTarget reads a target as users write it: a CID or /ipfs/CID, which a
// slash and a path may follow. Its errors wrap ErrUsage.
func ParseTarget(s string) (Target, error) {
	rest := strings.TrimPrefix(s, "/ipfs/")
	if strings.HasPrefix(s, "/ipns/") {
		return Target{}, errName(s)
	}
	id, path, _ := strings.Cut(rest, "/")
	c, err := cid.Decode(id)
	if err != nil {
		return Target{}, fmt.Errorf("%w: %q is not a CID", ErrUsage, s)
	}
	if c.Type() == cid.Libp2pKey {
		return Target{}, errName(s)
	}
	if err := blockstore.CheckCID(c); err != nil {
		return Target{}, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return Target{Root: c, Path: strings.Trim(path, "/")}, nil
}

func errName(s string) error {
	return fmt.Errorf("%w: %q is a name; only CIDs are understood", ErrUsage, s)
}

// String writes the target so that ParseTarget reads it back.
func (t Target) String() string {
	if t.Path == "" {
		return t.Root.String()
	}
	return t.Root.String() + "/" + t.Path
}
