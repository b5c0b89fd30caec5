package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

const (
	sitesFile    = "sites.json"
	sitesVersion = 1
)

// site is a tree that the node keeps: one that was added here, or one that it
// follows.
type site struct {
	Root   cid.Cid `json:"root"`
	Path   string  `json:"path,omitempty"`  // where it was added from; "" if it is followed
	Whole  bool    `json:"whole"`           // every block was held once; checked at each start
	Lossy  bool    `json:"lossy,omitempty"` // it was whole, and has lost blocks since
	Blocks int64   `json:"blocks"`          // distinct blocks, once whole
	Bytes  int64   `json:"bytes"`           // of these blocks
}

// siteList is the durable list of sites. Losing it loses no block, but what is
// kept and followed has to be named again; forging it makes the node fetch and
// announce what its owner did not choose.
type siteList struct {
	path     string
	readOnly error // why the list cannot be changed, or nil

	mu    sync.Mutex
	sites []site // in the order in which they came
}

type sitesJSON struct {
	Version int    `json:"version"`
	Sites   []site `json:"sites"`
}

func openSites(dir string, readOnly error) (*siteList, error) {
	l := &siteList{path: filepath.Join(dir, sitesFile), readOnly: readOnly}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	l.sites, err = parseSites(data)
	switch {
	case errors.Is(err, blockstore.ErrNewerFormat):
		return nil, fmt.Errorf("%s: %w", l.path, err)
	case err != nil:
		return nil, fmt.Errorf("%s is damaged (%w); restore it, or move it away and add or follow the sites again", l.path, err)
	}
	return l, nil
}

// parseSites decodes a list of sites. One that is not understood is an error: it would
// be replaced by an empty one.
func parseSites(data []byte) ([]site, error) {
	// What else a newer version has in it may look like damage.
	var version struct{ Version int }
	if json.Unmarshal(data, &version) == nil && version.Version > sitesVersion {
		return nil, fmt.Errorf("version %d: %w", version.Version, blockstore.ErrNewerFormat)
	}
	var file sitesJSON
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if file.Version < 1 {
		return nil, errors.New("no version")
	}
	for _, s := range file.Sites {
		if !s.Root.Defined() {
			return nil, errors.New("a site has no root")
		}
	}
	return file.Sites, nil
}

func encodeSites(sites []site) ([]byte, error) {
	data, err := json.MarshalIndent(sitesJSON{sitesVersion, sites}, "", "  ")
	return append(data, '\n'), err
}

// all returns the sites.
func (l *siteList) all() []site {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sites)
}

func (l *siteList) find(root cid.Cid) (site, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.index(root); i >= 0 {
		return l.sites[i], true
	}
	return site{}, false
}

func (l *siteList) index(root cid.Cid) int {
	return slices.IndexFunc(l.sites, func(s site) bool { return s.Root.Equals(root) })
}

// put adds s, or replaces the site with its root. It is durable when put returns
// nil, and as before otherwise.
func (l *siteList) put(s site) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := slices.Clone(l.sites)
	if i := l.index(s.Root); i >= 0 {
		if next[i] == s {
			return nil
		}
		next[i] = s
	} else {
		next = append(next, s)
	}
	return l.save(next)
}

// remove removes the site with the given root, durably, and says whether there
// was one.
func (l *siteList) remove(root cid.Cid) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.index(root)
	if i < 0 {
		return false, nil
	}
	return true, l.save(slices.Delete(slices.Clone(l.sites), i, i+1))
}

// save makes sites the list. The caller holds mu.
func (l *siteList) save(sites []site) error {
	if l.readOnly != nil {
		return l.readOnly
	}
	data, err := encodeSites(sites)
	if err != nil {
		return err
	}
	if err := replaceFile(l.path, data); err != nil {
		return fmt.Errorf("save the list of sites: %w", err)
	}
	l.sites = sites
	return nil
}

// replaceFile gives the file at path new contents: after a crash it has either
// the old or the new ones, and the new ones once replaceFile has returned nil.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
