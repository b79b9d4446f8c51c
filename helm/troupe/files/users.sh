# The store's users with the digests of their passwords, as its ACL file has them.
# Usage: users.sh USERS PASSWORDS, a file of lines `user key rules` and a folder with a file for each key.
set -eu
while read -r user key rules; do
  case $key in
    -) echo "user $user $rules" ;;
    *) echo "user $user on #$(sha256sum <"$2/$key" | cut -d ' ' -f 1) $rules" ;;
  esac
done <"$1"
