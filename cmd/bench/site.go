//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// source finds a site below the directory of sites, or makes it below scratch. It
// returns the site's directory.
type source func(sites, scratch string) (string, error)

// skipError says why something cannot be measured here, which is no failure.
type skipError string

func (e skipError) Error() string { return string(e) }

// siteNamed is the site in the directory of that name.
func siteNamed(name string) source {
	return func(sites, _ string) (string, error) {
		dir := filepath.Join(sites, name)
		if info, err := os.Stat(dir); sites == "" || err != nil || !info.IsDir() {
			return "", skipError("no " + filepath.Join(sitesOr(sites), name))
		}
		return dir, nil
	}
}

// all is the directory of sites itself, if it has so many files and bytes.
func all(files, bytes int64) source {
	return func(sites, _ string) (string, error) {
		if sites == "" {
			return "", skipError("no " + sitesOr(sites))
		}
		f, b, err := treeSize(sites)
		if err == nil && (f < files || b < bytes) {
			err = skipError(fmt.Sprintf("%s has %d files of %d MB in all; at least %d of %d MB are needed", sites, f, b/1e6, files, bytes/1e6))
		}
		return sites, err
	}
}

func sitesOr(sites string) string {
	if sites == "" {
		return "DIR (see -sites)"
	}
	return sites
}

// part is made of the first files of a site, in the order of their paths, leaving out
// those with which the average would exceed bytes/files by far.
func part(name string, files, bytes int64) source {
	const slack = 1e6 // bytes
	return func(sites, scratch string) (string, error) {
		from, err := siteNamed(name)(sites, scratch)
		if err != nil {
			return "", err
		}
		to := filepath.Join(scratch, fmt.Sprintf("%s-%d-%d", name, files, bytes))
		if _, err := os.Stat(to); err == nil {
			return to, nil // an earlier run made it
		}
		var taken, size int64
		err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			if taken == files {
				return fs.SkipAll
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if size+int64(len(data)) > (taken+1)*bytes/files+slack {
				return nil
			}
			taken++
			size += int64(len(data))
			rel, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			rel = filepath.Join(to, rel)
			return errors.Join(os.MkdirAll(filepath.Dir(rel), 0o755), os.WriteFile(rel, data, 0o644))
		})
		if err == nil && taken < files {
			err = fmt.Errorf("%s has only %d files that make up such a site", from, taken)
		}
		return to, err
	}
}

// random is a site of one file of random bytes, always the same.
func random(bytes int64) source {
	return func(_, scratch string) (string, error) {
		dir := filepath.Join(scratch, fmt.Sprint("random-", bytes))
		if _, err := os.Stat(dir); err == nil {
			return dir, nil // an earlier run made it
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		f, err := os.Create(filepath.Join(dir, "random"))
		if err != nil {
			return "", err
		}
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), bytes)
		return dir, errors.Join(err, f.Close())
	}
}

// treeSize counts the files of a site and their bytes, without names that start with
// a dot, which an add leaves out.
func treeSize(dir string) (files, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(d.Name(), ".") && path != dir:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		bytes += info.Size()
		return nil
	})
	return files, bytes, err
}
