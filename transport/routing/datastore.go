package routing

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	leveldb "github.com/ipfs/go-ds-leveldb"
	ldberrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

// OpenDatastore opens the datastore for a Routing in dir, and makes it if there
// is none. Every write is durable when it returns. Only one process can have it
// open.
//
// If dir is "", or cannot be changed because its file system is read-only or full or for
// want of permission, which is logged, the datastore is in memory and ends with the process:
// all keys are announced anew then.
//
// A damaged datastore is repaired as far as it goes; if it does not go, it is
// moved aside to dir+".damaged", in place of an older one there, and an empty one
// is made. Both are logged and neither is an error, because what is in it comes
// again: the keys when the caller provides them, the records of others when
// those announce again.
func OpenDatastore(dir string, log *slog.Logger) (datastore.Batching, error) {
	if dir == "" {
		return dssync.MutexWrap(datastore.NewMapDatastore()), nil
	}
	ds, err := openLevelDB(dir)
	if err == nil {
		return ds, nil
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		log.Warn("routing datastore cannot be written: it is in memory until the next start", "dir", dir, "err", err)
		return OpenDatastore("", log)
	}
	if !isDamaged(err) {
		return nil, fmt.Errorf("open datastore %s: %w", dir, err)
	}
	aside := dir + ".damaged"
	log.Warn("routing datastore is damaged: moved aside, starting with an empty one", "dir", dir, "moved", aside, "err", err)
	if err := os.RemoveAll(aside); err != nil {
		return nil, fmt.Errorf("move damaged datastore aside: %w", err)
	}
	if err := os.Rename(dir, aside); err != nil {
		return nil, fmt.Errorf("move damaged datastore aside: %w", err)
	}
	if ds, err = openLevelDB(dir); err != nil {
		return nil, fmt.Errorf("open datastore %s: %w", dir, err)
	}
	return ds, nil
}

func openLevelDB(dir string) (*leveldb.Datastore, error) {
	// LevelDB's defaults would take 12 MiB and 500 descriptors. The whole idle
	// daemon is to stay below 90 MB, and little here is read twice.
	return leveldb.NewDatastore(dir, &leveldb.Options{
		BlockCacheCapacity:     1 * opt.MiB,
		WriteBuffer:            1 * opt.MiB,
		OpenFilesCacheCapacity: 32,
		// Most keys that are looked up are not there: a new key to provide, a record
		// that another peer asks for.
		Filter: filter.NewBloomFilter(10),
	})
}

// isDamaged tells a datastore that cannot be read from one that may not be: open
// in another process, or on a disk that is full or fails.
func isDamaged(err error) bool {
	return ldberrors.IsCorrupted(err) || errors.Is(err, fs.ErrNotExist)
}
