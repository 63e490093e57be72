// Verifies an audit log with the Go project's own packages golang.org/x/mod/sumdb/{note,tlog}: the checkpoint's
// signature, the root over all entries, and the proofs on standard input (the lines that verify.py takes). Usage:
// verify FOLDER LOG-KEY. It uses CheckRecord, CheckTree and note.Open only: TileHashReader before x/mod 0.40 takes
// forged tiles.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(1)
	}
	return value
}

func hash(text string) tlog.Hash { return must(tlog.ParseHash(text)) }

func path(n int64, width int64) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if width < 256 {
		name += fmt.Sprintf(".p/%d", width)
	}
	return "tile/entries/" + name
}

func main() {
	folder := os.Args[1]
	verifier := must(note.NewVerifier(os.Args[2]))
	opened := must(note.Open(must(os.ReadFile(filepath.Join(folder, "checkpoint"))), note.VerifierList(verifier)))
	lines := strings.Split(opened.Text, "\n")
	size, root := must(strconv.ParseInt(lines[1], 10, 64)), hash(lines[2])

	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, index := range indexes {
			hashes = append(hashes, stored[index])
		}
		return hashes, nil
	})
	var leaves []tlog.Hash
	for first := int64(0); first < size; first += 256 {
		width := size - first
		if width > 256 {
			width = 256
		}
		data := must(os.ReadFile(filepath.Join(folder, path(first/256, width))))
		for len(data) > 0 {
			length := int(binary.BigEndian.Uint16(data))
			entry := data[2 : 2+length]
			stored = append(stored, must(tlog.StoredHashes(int64(len(leaves)), entry, reader))...)
			leaves = append(leaves, tlog.RecordHash(entry))
			data = data[2+length:]
		}
	}
	if int64(len(leaves)) != size || must(tlog.TreeHash(size, reader)) != root {
		fmt.Println("refused: the root is not that of the entries")
		os.Exit(1)
	}
	proofs := 0
	for input := bufio.NewScanner(os.Stdin); input.Scan(); proofs++ {
		words := strings.Fields(input.Text())
		a, b := must(strconv.ParseInt(words[1], 10, 64)), must(strconv.ParseInt(words[2], 10, 64))
		var hashes []tlog.Hash
		for _, word := range words[3:] {
			must(base64.StdEncoding.DecodeString(word))
			hashes = append(hashes, hash(word))
		}
		var err, forged error
		if words[0] == "inclusion" {
			err = tlog.CheckRecord(tlog.RecordProof(hashes[1:]), b, hashes[0], a, leaves[a])
			forged = tlog.CheckRecord(tlog.RecordProof(hashes[1:]), b, hashes[0], a, tlog.RecordHash([]byte("forged")))
		} else {
			err = tlog.CheckTree(tlog.TreeProof(hashes[2:]), b, hashes[1], a, hashes[0])
			forged = tlog.CheckTree(tlog.TreeProof(hashes[2:]), b, hashes[1], a, tlog.RecordHash([]byte("forged")))
		}
		if err != nil || forged == nil {
			fmt.Println("refused:", input.Text(), err)
			os.Exit(1)
		}
	}
	fmt.Println("verified", size, "entries and", proofs, "proofs")
}
