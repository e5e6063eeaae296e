"""async-hvac over the daemon's socket, through aiohttp's connector for Unix sockets. Argument: the socket."""

import asyncio
import base64
import sys

import aiohttp
import async_hvac


async def main(socket):
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket))
    async with async_hvac.AsyncClient(url="http://localhost", token="ignored", session=session) as vault:
        text = base64.b64encode(b"hello").decode()
        assert await vault.is_initialized() and not await vault.is_sealed()
        assert await vault.is_authenticated()
        sealed = await vault.transit_encrypt_data("keyring", text, key_type="aes256-gcm96", convergent_encryption=False)
        assert sealed["lease_id"] == "" and sealed["warnings"] is None, sealed
        opened = await vault.transit_decrypt_data("keyring", sealed["data"]["ciphertext"])
        assert opened["data"]["plaintext"] == text, opened
        rewrapped = await vault.transit_rewrap_data("keyring", sealed["data"]["ciphertext"], key_version=0)
        assert rewrapped["data"]["ciphertext"] != sealed["data"]["ciphertext"]
        key = await vault.transit_read_key("keyring")
        assert all(isinstance(time, int) for time in key["data"]["keys"].values()), key
        assert (await vault.transit_list_keys())["data"]["keys"] == ["keyring"]
        made = await vault.transit_generate_data_key("keyring", "plaintext", bits=512)
        assert len(base64.b64decode(made["data"]["plaintext"])) == 64
        drawn = await vault.transit_generate_rand_bytes(16, output_format="hex")
        assert len(bytes.fromhex(drawn["data"]["random_bytes"])) == 16
        summed = await vault.transit_hash_data(text, algorithm="sha3-256", output_format="hex")
        assert summed["data"]["sum"].startswith("3338be694f50c5f3"), summed
        mac = (await vault.transit_generate_hmac("keyring", text, algorithm="sha2-512"))["data"]["hmac"]
        verified = await vault.transit_verify_signed_data("keyring", text, algorithm="sha2-512", hmac=mac)
        assert verified["data"]["valid"] is True, verified
        try:
            await vault.read("transit/keys/keyring", wrap_ttl="60s")
            raise SystemExit("an answer that should be wrapped came in the clear")
        except async_hvac.exceptions.InvalidRequest as refused:
            assert "X-Vault-Wrap-TTL" in str(refused), refused


asyncio.run(main(sys.argv[1]))
print("all of it")
